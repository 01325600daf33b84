//! A bucket of an S3 service as a tier.

pub mod options;

pub use options::S3Place;
