//! Negative controls: one fsync left out, one check left out. The sweep must see each of them.
