//! The receipt that the pretended engine shows.

use cairn::server::wire::*;

/// As root sees it, or as others do.
pub(super) fn receipt(path: GivenPath, sha256: bool, root: bool) -> Receipt {
    let checks = vec![CheckCommand {
        of: "content, crc32c".to_owned(),
        command: "tar -xOf /tier/e1.tar -- 'it'\\''s' | crc32c".to_owned(),
        prints: Some("0f1e2d3c".to_owned()),
    }];
    let copy = CopyProof {
        tier: "archive".to_owned(),
        url: root.then(|| "dir:/tier".to_owned()),
        state: "good".to_owned(),
        since: When::from_unix(1_700_000_000),
        proof: Some("read-back".to_owned()),
        verified: Some(When::from_unix(1_700_086_400)),
        aggregate: "e00000001-000000000007".to_owned(),
        aggregate_len: Some(1_048_576),
        aggregate_crc32c: Some("89abcdef".to_owned()),
        object: root.then(|| GivenPath::new(b"/tier/e1.tar")),
        member: root.then(|| GivenPath::new(b"it's")),
        data_offset: Some(4096),
        data_len: Some(1234),
        note: None,
        checks: if root { checks } else { Vec::new() },
    };
    Receipt {
        path,
        id: "00112233-4455-6677-8899-aabbccddeeff".to_owned(),
        version: 3,
        size: 1234,
        crc32c: "0f1e2d3c".to_owned(),
        sha256: sha256.then(|| "e3b0c442".repeat(8)),
        sha256_note: sha256.then(|| "computed now, from the disk".to_owned()),
        current: true,
        copies: vec![copy],
        setup: root.then(|| "crc32c() { true; }".to_owned()),
    }
}
