//! Every outside package has one home, so that replacing it touches one room.

use super::Source;

/// Package as it stands in code, and the path prefixes that may name it. `bytes`, `thiserror`,
/// `tracing`, `serde`, `serde_json`, `parking_lot`, `libc` and `rustix` are vocabulary.
const HOMES: &[(&str, &[&str])] = &[
    ("fuser", &["fuse/"]),
    ("rusqlite", &["src/catalog/", "src/catalog.rs"]),
    ("aws_sdk_s3", &["src/tier/s3"]),
    ("aws_config", &["src/tier/s3"]),
    ("aws_smithy_http_client", &["src/tier/s3"]),
    ("aws_smithy_types", &["src/tier/s3"]),
    ("crc32c", &["mover/src/checksum.rs"]),
    (
        "lru",
        &[
            "fuse/",
            "src/hsm/index_cache.rs",
            "src/hsm/index_store.rs",
            "src/hsm/vouch.rs",
            "src/hsm/recall/adoption.rs",
            "src/tier/s3/bucket/nearness.rs",
            "src/parcel/",
            "src/tier/dir",
        ],
    ),
    ("axum", &["src/server/", "src/server.rs"]),
    ("rcgen", &["src/server/remote/certificate.rs"]),
    ("rustls", &["src/server/remote/", "src/client/remote/"]),
    ("rustls_native_certs", &["src/client/remote/"]),
    (
        "tokio_rustls",
        &["src/server/remote/", "src/client/remote/"],
    ),
    ("hyper", &["src/client/", "src/client.rs", "src/server/"]),
    (
        "hyper_util",
        &["src/client/", "src/client.rs", "src/server/"],
    ),
    ("clap", &["src/cli/", "src/cli.rs", "src/main.rs"]),
    ("clap_complete", &["src/cli/", "src/cli.rs"]),
    ("clap_mangen", &["src/cli/", "src/cli.rs"]),
    ("indicatif", &["src/cli/", "src/cli.rs"]),
    ("globset", &["policies/"]),
    ("hmac", &["src/hsm/backing"]),
    (
        "sha2",
        &[
            "src/hsm/backing",
            "src/cli/",
            "src/server/remote/",
            "src/parcel/",
        ],
    ),
    ("ring", &["mover/src/secret.rs", "mover/src/seal.rs"]),
    ("toml", &["src/config/", "src/config.rs"]),
    ("uuid", &["src/id.rs"]),
    ("tracing_subscriber", &["src/main.rs"]),
    (
        "anyhow",
        &["src/main.rs", "tests/", "fuse/tests/", "fuse/examples/"],
    ),
    (
        "tokio",
        &[
            "src/server",
            "src/client",
            "src/cli",
            "src/main.rs",
            "src/tier/s3",
            "src/tier/mover",
            "mover/src/shell",
            "mover/examples/",
        ],
    ),
];

pub(crate) fn check(source: &Source) -> Vec<String> {
    if source.is_test() || source.path.starts_with("examples/") {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (number, line) in source.code() {
        for (package, homes) in HOMES {
            let named = names(line, package);
            if named && !homes.iter().any(|h| source.path.starts_with(h)) {
                complaints.push(format!(
                    "{}:{number}: `{package}` lives in {}; ask that room for what you need",
                    source.path,
                    homes.join(", ")
                ));
            }
        }
    }
    complaints
}

/// Does the line say `package::`, as a path of its own?
fn names(line: &str, package: &str) -> bool {
    line.match_indices(&format!("{package}::")).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}
