//! The decisions against a model of the kernel's own rules (fs/fuse/iomode.c as measured).

use super::{Data, Decision, IoMode};
use proptest::prelude::*;

/// What the kernel keeps per inode, and its verdict on a reply.
#[derive(Default)]
struct Kernel {
    counter: i32,
}

impl Kernel {
    fn reply(&mut self, passthrough: bool) -> Result<(), &'static str> {
        if passthrough {
            if self.counter > 0 {
                return Err("EIO: passthrough beside cached");
            }
            self.counter -= 1;
        } else {
            if self.counter < 0 {
                return Err("EIO: cached beside passthrough");
            }
            self.counter += 1;
        }
        Ok(())
    }
    fn close(&mut self, passthrough: bool) {
        self.counter += if passthrough { 1 } else { -1 };
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// An open; `backing_fails`: no backing id can be registered at the moment.
    Open { backing_fails: bool },
    /// The kernel learns of the n-th reply that is still on its way.
    Deliver(usize),
    /// The n-th delivered open is closed in the kernel.
    Close(usize),
    /// The server reads the n-th RELEASE that is on its way.
    Release(usize),
    /// A recall completes.
    Recall,
    /// The owner of the data tries to release the file.
    TryRelease,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any::<bool>().prop_map(|backing_fails| Step::Open { backing_fails }),
        4 => (0_usize..8).prop_map(Step::Deliver),
        3 => (0_usize..8).prop_map(Step::Close),
        3 => (0_usize..8).prop_map(Step::Release),
        1 => Just(Step::Recall),
        2 => Just(Step::TryRelease),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn the_kernel_never_refuses_a_reply(steps in steps(), works: bool, start_released: bool) {
        let mut mode = IoMode::default();
        let mut kernel = Kernel::default();
        let mut data = if start_released { Data::Released } else { Data::Resident };
        // Replies and releases in flight, and opens the kernel knows: `true` is passthrough.
        let (mut replies, mut open, mut releases) = (Vec::new(), Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Open { backing_fails } => {
                    mode.begin();
                    match mode.open(data, works) {
                        Decision::Passthrough => {
                            prop_assert_eq!(data, Data::Resident);
                            let cached = backing_fails && mode.fall_back();
                            replies.push(!cached);
                        }
                        Decision::Cached => replies.push(false),
                        Decision::FetchFirst => data = Data::Resident,
                    }
                    mode.end();
                }
                Step::Deliver(n) if n < replies.len() => {
                    let passthrough = replies.remove(n);
                    prop_assert_eq!(kernel.reply(passthrough), Ok(()));
                    open.push(passthrough);
                }
                Step::Close(n) if n < open.len() => {
                    let passthrough = open.remove(n);
                    kernel.close(passthrough);
                    releases.push(passthrough);
                }
                Step::Release(n) if n < releases.len() => {
                    let passthrough = releases.remove(n);
                    let last = mode.release(!passthrough);
                    prop_assert_eq!(last, replies.is_empty() && open.is_empty() && releases.is_empty());
                }
                Step::Recall => data = Data::Resident,
                Step::TryRelease if !mode.in_use() => {
                    prop_assert_eq!(kernel.counter, 0);
                    data = Data::Released;
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_recalled_file_stays_cached_until_its_last_cached_open_closes() {
    let mut mode = IoMode::default();
    assert_eq!(mode.open(Data::Released, true), Decision::Cached);
    assert_eq!(mode.open(Data::Resident, true), Decision::Cached);
    assert!(!mode.release(true));
    assert_eq!(mode.open(Data::Resident, true), Decision::Cached);
    assert!(!mode.release(true));
    assert!(mode.release(true));
    assert_eq!(mode.open(Data::Resident, true), Decision::Passthrough);
}

#[test]
fn a_stub_is_never_answered_beside_passthrough_opens() {
    let mut mode = IoMode::default();
    assert_eq!(mode.open(Data::Resident, true), Decision::Passthrough);
    assert_eq!(mode.open(Data::Released, true), Decision::FetchFirst);
    assert!(mode.release(false));
}
