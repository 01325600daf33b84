//! Work for a tape library: what is asked of each cartridge, which drive turns to which, in what order, and
//! how long whoever waits will wait. The queue and
//! its order are pure; [`desk`] joins them to the drives of a tier, of which it knows what
//! [`Tapes`](crate::tier::tapes::Tapes) says.

pub mod desk;
pub mod estimate;
pub mod order;
pub mod queue;
