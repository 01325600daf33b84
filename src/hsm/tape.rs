//! Work for a tape library: what is asked of each cartridge, which drive turns to which, in what order, and
//! how long whoever waits will wait. Pure: the library itself is a tier, and how long things take is
//! asked of whoever knows the drives.

pub mod estimate;
pub mod order;
pub mod queue;
