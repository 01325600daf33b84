//! The tar part, front to back, by reading and by seeking: both find the same. Header checksums are
//! made right, so that the fuzzer gets behind them.
#![no_main]

use cairn::format::scan::Scanner;
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;

fn seal(object: &mut [u8]) {
    for block in object.chunks_exact_mut(512).filter(|b| b[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut object = bytes.to_vec();
    seal(&mut object);
    let mut reading = Scanner::new(&object[..]);
    let mut seeking = Scanner::seekable(Cursor::new(&object));
    loop {
        let (read, sought) = (reading.next_member(), seeking.next_member());
        assert_eq!(read.is_ok(), sought.is_ok());
        let (Ok(Some(read)), Ok(Some(sought))) = (read, sought) else {
            break;
        };
        assert_eq!(read, sought);
        // An object that ends inside these data ends this scan here, the other one later.
        if reading.entry().is_err() {
            break;
        }
    }
});
