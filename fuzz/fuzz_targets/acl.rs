//! ACLs, both ways: what converts converts back to the same bytes.
#![no_main]

use cairn::format::acl;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = acl::to_text(bytes) {
        assert_eq!(acl::from_text(text.as_bytes()).as_deref(), Ok(bytes));
    }
    if let Ok(value) = acl::from_text(bytes) {
        assert_eq!(acl::to_text(&value).map(String::into_bytes).as_deref(), Ok(bytes));
    }
});
