//! Changes of names, as the mount tells them.

use super::*;
use crate::catalog::{Durability, Flag};
use crate::hsm::engine::changelog;
use cairn_fuse::{Event, EventKind};
use rustix::fs::{CWD, RenameFlags, renameat_with};

#[test]
fn an_exchange_keeps_both_nodes_and_what_lies_below_them() {
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    for name in ["a", "b", "d/x", "e/y"] {
        bench.write(name, name.as_bytes());
    }
    bench.archive(&["a", "b", "d", "e"]);
    let catalog = bench.engine().catalog();
    for name in ["a", "b"] {
        let id = bench.node(name).id;
        catalog
            .set_flag(id, Flag::NoRelease, true, Durability::Full)
            .unwrap();
    }
    let names = ["a", "b", "d", "e", "d/x", "e/y"];
    let before = names.map(|name| (bench.handle(name), bench.node(name).id));
    let root = bench.handle("");
    for (from, to) in [("a", "b"), ("d", "e")] {
        let (source, other) = (bench.handle(from), bench.handle(to));
        let (old, new) = (bench.root.join(from), bench.root.join(to));
        renameat_with(CWD, &old, CWD, &new, RenameFlags::EXCHANGE).unwrap();
        let place = |name: &str| Some((root.clone(), name.as_bytes().to_vec()));
        let event = |node, from, to| Event {
            kind: EventKind::Renamed,
            node,
            place: place(to),
            from: place(from),
        };
        let events = [event(other, to, from), event(source, from, to)].map(Into::into);
        changelog::apply(&bench.engine().shared, &events).unwrap();
    }
    catalog.settle(Durability::Relaxed).unwrap();
    let since = ["b", "a", "e", "d", "e/x", "d/y"];
    for ((handle, id), name) in before.iter().zip(since) {
        let node = catalog.node_by_handle(handle).unwrap();
        let node = node.unwrap_or_else(|| panic!("{name} was forgotten"));
        assert_eq!(node.id, *id, "{name}");
        assert_eq!(catalog.path_of(*id).unwrap().unwrap(), name.as_bytes());
        assert_eq!(node.norelease, name.len() == 1 && "ab".contains(name));
        assert_eq!(node.version.is_some(), !"de".contains(name), "{name}");
    }
}
