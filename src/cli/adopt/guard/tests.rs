//! Tests of adoption: forth, back, and after a crash at each step.

use super::*;

struct Tree {
    top: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("data/sub")).unwrap();
        fs::write(top.path().join("data/sub/file"), b"bytes").unwrap();
        Self { top }
    }
    fn adoption(&self) -> Adoption {
        Adoption::of(&self.top.path().join("data")).unwrap()
    }
    fn is_adopted(&self) {
        let adoption = self.adoption();
        assert_eq!(
            fs::read(adoption.backing.join("sub/file")).unwrap(),
            b"bytes"
        );
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&adoption.dir), placeholder_mode());
        assert_eq!(mode(&adoption.guard), 0o700);
        assert_eq!(fs::read_dir(&adoption.dir).unwrap().count(), 0);
    }
    fn is_back(&self) {
        assert_eq!(
            fs::read(self.top.path().join("data/sub/file")).unwrap(),
            b"bytes"
        );
        assert_eq!(
            fs::read_dir(self.top.path()).unwrap().count(),
            1,
            "no guard is left"
        );
    }
}

#[test]
fn p7_adopt_and_undo_round_trip() {
    let tree = Tree::new();
    let inode = fs::metadata(&tree.adoption().dir).unwrap().ino();
    tree.adoption().adopt().unwrap();
    tree.is_adopted();
    assert_eq!(
        fs::metadata(&tree.adoption().backing).unwrap().ino(),
        inode,
        "one rename"
    );
    let again = tree.adoption().adopt().unwrap_err();
    assert!(again.to_string().contains("adopted already"), "{again}");
    tree.adoption().undo(UndoHow::default()).unwrap();
    tree.is_back();
    assert_eq!(
        tree.adoption()
            .undo(UndoHow::default())
            .unwrap_err()
            .exit_code(),
        2
    );
}

#[test]
fn p7_a_crash_at_any_step_of_adopt_is_completed_by_running_it_again() {
    let steps: [fn(&Adoption); 4] = [
        |a| fs::DirBuilder::new().mode(0o700).create(&a.guard).unwrap(),
        |a| make_placeholder(&a.backing).unwrap(),
        // The kernel cannot exchange: the tree is moved, the mountpoint not yet made.
        |a| fs::rename(&a.dir, &a.backing).unwrap(),
        |a| make_placeholder(&a.dir).unwrap(),
    ];
    for crash_after in 1..steps.len() {
        let tree = Tree::new();
        steps
            .iter()
            .take(crash_after)
            .for_each(|step| step(&tree.adoption()));
        tree.adoption().adopt().unwrap();
        tree.is_adopted();
    }
}

#[test]
fn p7_a_crash_at_any_step_of_undo_is_completed_by_running_it_again() {
    let steps: [fn(&Adoption); 2] = [
        |a| a.exchange().unwrap(),
        |a| fs::remove_dir(&a.backing).unwrap(),
    ];
    for crash_after in 1..=steps.len() {
        let tree = Tree::new();
        tree.adoption().adopt().unwrap();
        steps
            .iter()
            .take(crash_after)
            .for_each(|step| step(&tree.adoption()));
        tree.adoption().undo(UndoHow::default()).unwrap();
        tree.is_back();
    }
}

#[test]
fn swapping_by_steps_does_the_same() {
    let tree = Tree::new();
    let adoption = tree.adoption();
    adoption
        .make_guard(&fs::metadata(&adoption.dir).unwrap())
        .unwrap();
    adoption.swap_by_steps().unwrap();
    tree.is_adopted();
    adoption.swap_by_steps().unwrap();
    adoption.undo(UndoHow::default()).unwrap();
    tree.is_back();
}

#[test]
fn a_guard_that_others_may_enter_is_refused() {
    let tree = Tree::new();
    let guard = &tree.adoption().guard;
    fs::create_dir(guard).unwrap();
    fs::set_permissions(guard, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(tree.adoption().adopt().unwrap_err().exit_code(), 5);
    assert_eq!(
        fs::read(tree.adoption().dir.join("sub/file")).unwrap(),
        b"bytes"
    );
}

#[test]
fn what_lies_on_the_mountpoint_is_not_buried() {
    let tree = Tree::new();
    tree.adoption().adopt().unwrap();
    fs::set_permissions(&tree.adoption().dir, Permissions::from_mode(0o700)).unwrap();
    fs::write(tree.adoption().dir.join("stray"), b"x").unwrap();
    let error = tree.adoption().undo(UndoHow::default()).unwrap_err();
    assert!(
        error.to_string().contains("not the empty mountpoint"),
        "{error}"
    );
    assert!(tree.adoption().backing.join("sub/file").exists());
}
