//! The policy language and its planner: text in, plan out. Pure: no clock, no I/O.
