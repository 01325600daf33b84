//! A program that was built without the feature `s3`: it says so.

use super::S3Place;
use crate::id::{AggregateId, InstanceId};
use crate::tier::{Mark, OpenHow, Put, Space, Tier, TierError, TierUrl};
use bytes::Bytes;
use std::convert::Infallible;

/// There is none.
pub struct S3Tier(Infallible);

fn refused(place: &S3Place) -> TierError {
    TierError::Refused {
        place: TierUrl::S3(Box::new(place.clone())).to_string(),
        why: "this program was built without S3 (Cargo feature `s3`)".to_owned(),
    }
}

pub(in crate::tier) fn is_marked(place: &S3Place) -> std::io::Result<bool> {
    Err(refused(place).into())
}

pub(in crate::tier) fn mark_at(place: &S3Place) -> Result<Mark, TierError> {
    Err(refused(place))
}

pub(in crate::tier) fn take(
    place: &S3Place,
    _: InstanceId,
    _: InstanceId,
) -> Result<Mark, TierError> {
    Err(refused(place))
}

pub(in crate::tier) fn clear(place: &S3Place) -> Result<(), TierError> {
    Err(refused(place))
}

impl S3Tier {
    /// Refuses.
    ///
    /// # Errors
    /// [`TierError::Refused`].
    pub fn open(place: &S3Place, _: OpenHow) -> Result<Self, TierError> {
        Err(refused(place))
    }

    /// Cannot be asked.
    ///
    /// # Errors
    /// None.
    pub fn probe(&self) -> Result<Vec<String>, TierError> {
        match self.0 {}
    }
}

impl Tier for S3Tier {
    fn mark(&self) -> Mark {
        match self.0 {}
    }
    fn put(&self, _: AggregateId, _: u64) -> Result<Box<dyn Put>, TierError> {
        match self.0 {}
    }
    fn read(&self, _: AggregateId, _: u64, _: u64) -> Result<Bytes, TierError> {
        match self.0 {}
    }
    fn stat(&self, _: AggregateId) -> Result<u64, TierError> {
        match self.0 {}
    }
    fn delete(&self, _: AggregateId) -> Result<(), TierError> {
        match self.0 {}
    }
    fn list(&self, _: Option<AggregateId>, _: usize) -> Result<Vec<AggregateId>, TierError> {
        match self.0 {}
    }
    fn space(&self) -> Result<Space, TierError> {
        match self.0 {}
    }
}
