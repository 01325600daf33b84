//! Which key is what in a bucket.
//!
//! ```text
//! PREFIX/cairn-tier.json                                    the mark
//! PREFIX/cairn-probe.json                                   what the service was seen to do
//! PREFIX/probe/...                                          while that is being found out
//! PREFIX/aggregates/e0000002a/000000000000/00/e0000002a-000000000017.tar
//!                   epoch     seq >> 16    seq >> 8 & 255
//! ```
//! The layout is a directory tier's, but for the group: it has twelve digits here, because a service
//! lists keys in the order of their bytes, and that must be the order of names, also of parts.

use crate::id::AggregateId;

/// Behind the prefix: the mark.
pub(super) const MARK: &str = "cairn-tier.json";
/// Behind the prefix: what the service was seen to do.
pub(super) const PROBE: &str = "cairn-probe.json";

/// The keys below a prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// Empty, or with a slash at its end.
    base: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let base = if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        };
        Self { base }
    }

    /// What all keys begin with.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The key of one of the two files above, or of a thing tried out.
    pub(super) fn of(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }

    /// What the keys of all objects begin with.
    pub(super) fn objects(&self) -> String {
        self.of("aggregates/")
    }

    /// What the keys of things tried out begin with.
    pub(super) fn tried(&self) -> String {
        self.of("probe/")
    }

    pub(super) fn object(&self, name: AggregateId) -> String {
        let [.., leaf, _] = name.seq.to_be_bytes();
        let (epoch, group) = (name.epoch, name.seq >> 16);
        self.of(&format!(
            "aggregates/e{epoch:08x}/{group:012x}/{leaf:02x}/{name}.tar"
        ))
    }

    /// The object with this key, if it is one's.
    pub(super) fn parse(&self, key: &str) -> Option<AggregateId> {
        let (_, file) = key.rsplit_once('/')?;
        let name = file.strip_suffix(".tar")?.parse().ok()?;
        (self.object(name) == key).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_as_drawn_and_strangers_are_none() {
        let keys = Keys::new("site 1/a+b");
        let name = AggregateId {
            epoch: 0x2a,
            seq: 0x17,
        };
        let key = "site 1/a+b/aggregates/e0000002a/000000000000/00/e0000002a-000000000017.tar";
        assert_eq!(keys.object(name), key);
        assert_eq!(keys.parse(key), Some(name));
        assert_eq!(Keys::new("").parse(&key[11..]), Some(name));
        for foreign in [
            "",
            "aggregates/e0000002a-000000000017.tar",
            "site 1/a+b/aggregates/e0000002a/000000000000/01/e0000002a-000000000017.tar",
            "site 1/a+b/aggregates/e0000002a/00000000/00/e0000002a-000000000017.tar",
            "site 1/a+b/cairn-tier.json",
        ] {
            assert_eq!(keys.parse(foreign), None, "{foreign}");
        }
    }

    fn names() -> impl Strategy<Value = AggregateId> {
        let parts = prop_oneof![Just(0), 1..=AggregateId::MOST_PARTS];
        (0..3_u32, 0..1_u64 << 45, parts)
            .prop_map(|(epoch, seq, part)| AggregateId { epoch, seq }.part(part))
    }

    proptest! {
        #[test]
        fn the_order_of_keys_is_the_order_of_names(a in names(), b in names()) {
            let keys = Keys::new("p");
            let (key_a, key_b) = (keys.object(a), keys.object(b));
            prop_assert_eq!(key_a.cmp(&key_b), a.cmp(&b));
            prop_assert_eq!(keys.parse(&key_a), Some(a));
        }
    }
}
