//! What the fake engine says of its tape library.

use cairn::server::wire::*;

fn errors(write: u64) -> TapeErrors {
    TapeErrors {
        write,
        last: (write > 0).then(|| When::from_unix(1_060_000_000)),
        why: (write > 0).then(|| "write with drive 1: writing: Input/output error".into()),
        ..TapeErrors::default()
    }
}

fn cartridge(number: u32) -> TapeCartridge {
    TapeCartridge {
        barcode: format!("BAA{number:03}L8"),
        generation: "LTO-8".into(),
        capacity: 12_000_000_000_000,
        used: 9_000_000_000_000,
        files: 3,
        live: 7_000_000_000_000,
        dead: 2_000_000_000_000,
        bad: 0,
        slot: number,
        pool: None,
        drive: None,
        away: None,
        state: Vec::new(),
        why: None,
        mounts: 12,
        freed: 0,
        errors: errors(0),
    }
}

/// One of each kind.
pub fn list() -> TapeList {
    let words = |all: &[&str]| all.iter().map(|w| (*w).to_owned()).collect();
    let cartridges = vec![
        TapeCartridge {
            drive: Some(1),
            ..cartridge(1)
        },
        TapeCartridge {
            state: words(&["full", "read-only", "failing"]),
            why: Some("writes failed on drives 1 and 2".into()),
            errors: errors(2),
            bad: 1,
            ..cartridge(2)
        },
        TapeCartridge {
            state: words(&["away"]),
            away: Some("/mnt/vault/BAA003L8.tap".into()),
            ..cartridge(3)
        },
        TapeCartridge {
            state: words(&["empty"]),
            files: 0,
            used: 80,
            live: 0,
            dead: 0,
            mounts: 0,
            ..cartridge(4)
        },
    ];
    let drive = |drive| TapeDrive {
        drive,
        holds: (drive == 1).then(|| "BAA001L8".into()),
        busy: drive == 1,
        failed: None,
        retired: (drive == 2).then(|| "by an administrator".into()),
        mounts: 40,
        locates: 1500,
        read: 3_000_000_000_000,
        written: 9_000_000_000_000,
        busy_s: 36_000,
        errors: errors(0),
    };
    TapeList {
        libraries: vec![TapeLibrary {
            tier: "vault".into(),
            url: "tape:/mnt/library".into(),
            error: None,
            cartridges,
            drives: vec![drive(1), drive(2)],
            strange: vec![StrangeImage {
                image: "OLD001L8.tap".into(),
                why: "it does not begin with a VOL1 label: no labelled tape".into(),
            }],
            unseen: vec![
                "cartridge BAA009L8 is not in the library, but its index is: put it back".into(),
            ],
        }],
    }
}

pub fn view(barcode: &str) -> TapeView {
    let file = |number: u64, dead: bool, bad: bool| TapeFileView {
        object: format!("e00000001-{number:012x}"),
        block: 5 + number * 12_000_000,
        blocks: 11_444_092,
        at: 80 + number * 3_000_000_000_480,
        len: 3_000_000_000_000,
        crc32c: format!("{:08x}", 0x1234_5678 + number),
        dead,
        bad: bad.then(|| "bad block at object 24000100".into()),
    };
    TapeView {
        tier: "vault".into(),
        cartridge: TapeCartridge {
            barcode: barcode.to_owned(),
            ..cartridge(1)
        },
        wraps: 208,
        contents: vec![
            file(0, false, false),
            file(1, true, false),
            file(2, false, true),
        ],
    }
}

pub fn order(order: &TapeOrder) -> TapeDone {
    let (done, run) = match &order.act {
        TapeAct::Verify { .. } => (Vec::new(), Some(1)),
        TapeAct::Repack { .. } => (Vec::new(), Some(2)),
        TapeAct::Label { count, .. } => {
            let one = |n| format!("BAA{:03}L8 in slot {n}: LTO-8, 12.0 TB", n);
            ((5..5 + count).map(one).collect(), None)
        }
        act => (vec![format!("{act:?}")], None),
    };
    TapeDone {
        tier: "vault".into(),
        done,
        run,
    }
}

pub fn run(number: u64) -> TapeRun {
    let trouble = |why: &str| TapeTrouble {
        object: "e00000001-000000000002".into(),
        why: why.into(),
    };
    let run = TapeRun {
        number,
        tier: "vault".into(),
        barcode: "BAA001L8".into(),
        ended: Some(When::from_unix(1_060_000_000)),
        files: 3,
        bytes: 9_000_000_000_000,
        ..TapeRun::default()
    };
    if number == 1 {
        TapeRun {
            act: "verify".into(),
            trouble: vec![trouble("bad block at object 24000100")],
            bad_copies: 7,
            ..run
        }
    } else {
        TapeRun {
            act: "repack".into(),
            trouble: vec![trouble("it is in quarantine")],
            waiting: 3,
            ..run
        }
    }
}
