//! One member read from its own header blocks, found through the index.

use super::super::aggregate::{AggregateError, IndexEntry};
use super::super::member::Member;
use super::Scanner;
use cairn_mover::Crc32c;

impl IndexEntry {
    /// Length of the member's header blocks: read so many bytes at [`Self::header`] for
    /// [`Self::whole_member`]. 0 for a socket.
    #[must_use]
    pub fn header_len(&self) -> u64 {
        self.data - self.header
    }

    /// The member with all its extended attributes: those of `headers` (the bytes
    /// `header..data` of the aggregate) and those that the index alone holds. For restoring a
    /// name, where the data's place is not enough.
    ///
    /// # Errors
    /// [`AggregateError::BadMember`] if the bytes do not have the sum that the index vouches for, or
    /// say something else than the index.
    pub fn whole_member(&self, headers: &[u8]) -> Result<Member, AggregateError> {
        let bad = |why: &str| AggregateError::BadMember {
            offset: self.header,
            why: why.to_owned(),
        };
        if Crc32c::of(headers) != self.header_crc {
            return Err(bad("the headers do not have the sum that the index says"));
        }
        let mut member = self.member.clone();
        if self.header == 0 {
            // The index alone has it.
            return Ok(member);
        }
        let (path, kind) = self.in_tar();
        let mut scanner = Scanner::new(headers);
        scanner.at = self.header;
        scanner.alone = true;
        let found = scanner
            .next_member()?
            .ok_or_else(|| bad("no member there"))?;
        if found.member.path != path || found.member.kind != kind {
            return Err(bad("the headers say something else than the index"));
        }
        let only_here = std::mem::take(&mut member.xattrs);
        member.xattrs.extend_from_slice(&found.member.xattrs);
        member.xattrs.extend(only_here);
        Ok(member)
    }
}
