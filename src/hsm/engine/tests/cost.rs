//! What requests would cost, by prices that somebody wrote down.

use super::*;
use crate::config::{Amount, Prices};
use crate::hsm::engine::{Cost, Rates};
use crate::hsm::rig::noise;
use std::collections::BTreeMap;

const HOURS: Duration = Duration::from_secs(5 * 3600);
const SIZE: u64 = 100 << 10;
/// Thousand-millionths.
const UNIT: u64 = 1_000_000_000;

/// A unit of its currency for each restore and write, a thousandth for each read, and for each byte that is
/// restored or kept a thousand-millionth.
fn rates(currency: &str) -> Rates {
    Rates::new(Prices {
        currency: currency.into(),
        restore_request: Amount::of_nanos(u128::from(UNIT)),
        restore_gb: Amount::of_nanos(u128::from(UNIT)),
        read_request: Amount::of_nanos(1_000_000),
        write_request: Amount::of_nanos(u128::from(UNIT)),
        stored_gb_month: Amount::of_nanos(u128::from(UNIT)),
        ..Prices::default()
    })
}

fn priced(tiers: &[(&str, &str)]) -> Settings {
    let rates = |(tier, currency): &(&str, &str)| ((*tier).to_owned(), rates(currency));
    Settings {
        prices: tiers.iter().map(rates).collect::<BTreeMap<_, _>>(),
        ..small()
    }
}

fn cost(currency: &str, once: u64, monthly: u64) -> Cost {
    Cost {
        currency: currency.into(),
        once: Amount::of_nanos(once.into()),
        monthly: Amount::of_nanos(monthly.into()),
    }
}

fn asked(bench: &Bench, verb: Verb, names: &[&str], tier: Option<&str>) -> Vec<Cost> {
    let subjects = names.iter().map(|name| bench.named(name)).collect();
    let ask = Ask {
        tier: tier.map(str::to_owned),
        ..bench.ask(verb, subjects)
    };
    bench.engine().forecast(&ask).unwrap().cost
}

/// Files on the first tier alone, released.
fn released(bench: &Bench, names: &[&str]) {
    for (n, name) in names.iter().enumerate() {
        bench.write(name, &noise(SIZE as usize, n as u64));
    }
    bench.archive(names);
    bench.done(bench.submit(Verb::Release, names));
}

/// The objects of a tier that hold files, and their lengths.
fn objects(bench: &Bench, names: &[&str]) -> BTreeMap<AggregateId, u64> {
    let catalog = bench.engine().catalog();
    let mut objects = BTreeMap::new();
    for name in names {
        let version = bench.node(name).version.unwrap();
        for copy in catalog.copies(version.file, version.version).unwrap() {
            let known = catalog.aggregate(copy.tier, copy.aggregate).unwrap();
            objects.insert(copy.aggregate, known.unwrap().len);
        }
    }
    objects
}

#[test]
fn an_object_is_restored_once_and_whole_however_many_of_its_files_are_wanted() {
    let bench = Bench::new(&[Place::Elsewhere], priced(&[("t0", "USD")]), NOTHING);
    let names = ["d/a", "d/b", "d/c"];
    released(&bench, &names);
    let objects = objects(&bench, &names);
    assert_eq!(objects.len(), 1, "packed together");
    let len: u64 = objects.values().sum();
    assert!(len > 3 * SIZE);
    // A directory's objects are no bucket's: they need no restore.
    let reads = 3_000_000;
    let near = [cost("USD", reads, 0)];
    assert_eq!(asked(&bench, Verb::Stage, &["d"], None), near);
    *bench.withheld[0].bucket.lock() = Some(HOURS);
    let far = [cost("USD", UNIT + len + reads, 0)];
    assert_eq!(asked(&bench, Verb::Stage, &["d"], None), far);
    // For one of its files alone it is restored whole as well.
    let one = [cost("USD", UNIT + len + 1_000_000, 0)];
    assert_eq!(asked(&bench, Verb::Stage, &["d/b"], None), one);
    *bench.withheld[0].bucket.lock() = Some(Duration::ZERO);
    assert_eq!(asked(&bench, Verb::Stage, &["d"], None), near, "restored");
    assert_eq!(asked(&bench, Verb::Pin, &["d"], None), []);
    bench.done(bench.submit(Verb::Stage, &["d"]));
    assert_eq!(asked(&bench, Verb::Stage, &["d"], None), []);
}

#[test]
fn the_copy_that_a_recall_would_take_is_the_one_that_is_paid_for() {
    let places = [Place::Elsewhere, Place::Elsewhere];
    let tiers = [("t0", "USD"), ("t1", "EUR")];
    let bench = Bench::new(&places, priced(&tiers), NOTHING);
    released(&bench, &["f"]);
    let len: u64 = objects(&bench, &["f"]).values().sum();
    *bench.withheld[0].bucket.lock() = Some(HOURS);
    let read = 1_000_000;
    let far = [cost("USD", UNIT + len + read, 0)];
    assert_eq!(asked(&bench, Verb::Stage, &["f"], None), far);
    // What makes a further copy of it restores nothing.
    let further = [cost("EUR", UNIT, SIZE + 2048), cost("USD", read, 0)];
    let archive = || asked(&bench, Verb::Archive, &["f"], Some("t1"));
    assert_eq!(archive(), further);
    bench.done({
        let ask = Ask {
            tier: Some("t1".into()),
            ..bench.ask(Verb::Archive, vec![bench.named("f")])
        };
        bench.engine().submit(ask).unwrap().id
    });
    assert_eq!(archive(), []);
    let near = [cost("EUR", read, 0)];
    assert_eq!(asked(&bench, Verb::Stage, &["f"], None), near);
    // It is only the second that has to be waited for longer.
    *bench.withheld[1].bucket.lock() = Some(4 * HOURS);
    assert_eq!(asked(&bench, Verb::Stage, &["f"], None), far);
}

#[test]
fn what_is_archived_is_paid_for_each_month_also_by_a_rule() {
    let rule = "rule archive all\n  manual\n";
    let bench = Bench::new(&[Place::Elsewhere], priced(&[("t0", "USD")]), rule);
    let names = ["a", "b"];
    for name in names {
        bench.write(name, &noise(SIZE as usize, 1));
    }
    let both = [cost("USD", UNIT, 2 * (SIZE + 2048))];
    assert_eq!(asked(&bench, Verb::Archive, &names, None), both);
    let run = || bench.engine().run_policy(&RunAsk::Now(None), true).unwrap();
    let planned = wait_for("the scan", || {
        let run = run().pop().unwrap();
        (run.forecast.files == 2).then_some(run.forecast.cost)
    });
    assert_eq!(planned, both);
    let free = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    free.write("a", b"bytes");
    assert_eq!(asked(&free, Verb::Archive, &["a"], None), []);
}
