//! Random members of 1 GiB on one full cartridge, in several orders.

use crate::best::{self, Steps};
use crate::random::Random;
use crate::report::{Table, spread};
use cairn::hsm::tape::order::{EXACT, order};
use cairn::tier::tape::timing::{Generation, Geometry, LOAD_POINT, Spot};

const MEMBER: u64 = 1 << 30;
const COUNTS: [usize; 5] = [2, 8, 64, 512, 2000];
/// Most members for which the bound is computed: it takes the cube of their number.
const BOUND: usize = 2000;
/// Moves that annealing tries from each start.
const MOVES: usize = 5_000_000;
/// Seeds of the longest set whose best order is searched: annealing takes that long.
const SEARCHED: u64 = 3;

/// Members on a cartridge, numbered as they lie, with where each begins and ends.
pub(crate) struct Members {
    geometry: Geometry,
    places: Vec<(Spot, Spot)>,
}

impl Members {
    pub(crate) fn random(generation: Generation, many: usize, random: &mut Random) -> Self {
        let geometry = Geometry::whole(generation);
        let mut slots: Vec<u64> = (0..geometry.capacity / MEMBER).collect();
        random.shuffle(&mut slots);
        slots.truncate(many);
        slots.sort_unstable();
        let place = |slot: u64| {
            (
                geometry.spot(slot * MEMBER),
                geometry.spot((slot + 1) * MEMBER),
            )
        };
        Self {
            geometry,
            places: slots.into_iter().map(place).collect(),
        }
    }

    /// Seconds of a locate: from the load point or the end of one member to the beginning of another.
    pub(crate) fn step(&self, from: Option<usize>, to: usize) -> f32 {
        let from = from.map_or(LOAD_POINT, |from| self.places[from].1);
        self.geometry.locate(from, self.places[to].0) as f32
    }

    fn reads(&self) -> f64 {
        self.geometry.transfer(MEMBER) * self.places.len() as f64
    }
}

/// Locate seconds of one set, order by order.
#[derive(Default)]
struct Found {
    reads: f64,
    came: f64,
    lying: f64,
    nearest: f64,
    ours: f64,
    best: Option<f64>,
    bound: Option<f64>,
}

fn measure(generation: Generation, many: usize, seed: u64) -> Found {
    let mut random = Random::new(seed * 1000 + many as u64);
    let members = Members::random(generation, many, &mut random);
    let steps = Steps::new(many, |from, to| members.step(from, to));
    let lying: Vec<usize> = (0..many).collect();
    let mut came = lying.clone();
    random.shuffle(&mut came);
    let nearest = steps.by_nearest();
    let ours = order(many, |from, to| members.step(from, to));
    let best = (many > EXACT && (many <= BOUND || seed <= SEARCHED)).then(|| {
        let starts = [ours.clone(), nearest.clone(), came.clone()];
        best::anneal(&steps, &starts, MOVES, seed)
    });
    Found {
        reads: members.reads(),
        came: steps.total(&came),
        lying: steps.total(&lying),
        nearest: steps.total(&nearest),
        ours: steps.total(&ours),
        // A few are solved exactly.
        best: if many > EXACT {
            best.map(|order| steps.total(&order))
        } else {
            Some(steps.total(&ours))
        },
        bound: (many > EXACT && many <= BOUND).then(|| best::bound(&steps)),
    }
}

pub(crate) fn run(seeds: u64) {
    println!("## Orders\n");
    println!(
        "Locates and reads, seconds: median (least..most) of n = {seeds} random sets. `best` is exact to {EXACT} members; \
         beyond, the best of simulated annealing from our order, from nearest first and from the order of arrival, \
         {MOVES} moves each (2000 members: n = {}). `bound`: no order is below it.\n",
        SEARCHED.min(seeds)
    );
    let head = [
        "cartridge",
        "members",
        "arrival",
        "as they lie",
        "nearest first",
        "ours",
        "best",
        "bound",
    ];
    let ratios = [
        "arrival / ours",
        "nearest / ours",
        "ours / best",
        "locates alone: ours / best",
        "best / bound",
    ];
    let table = Table::new(&[&head[..], &ratios[..]].concat());
    for generation in [Generation::Lto8, Generation::Lto9] {
        for many in COUNTS {
            let sets: Vec<Found> = (1..=seeds)
                .map(|seed| measure(generation, many, seed))
                .collect();
            table.row(&cells(generation, many, &sets));
        }
    }
    println!();
}

fn cells(generation: Generation, many: usize, sets: &[Found]) -> Vec<String> {
    let over = |of: &dyn Fn(&Found) -> Option<f64>, digits: usize| {
        let mut values: Vec<f64> = sets.iter().filter_map(of).collect();
        if values.is_empty() {
            String::new()
        } else {
            spread(&mut values, digits)
        }
    };
    let seconds = |of: fn(&Found) -> Option<f64>| over(&|set| Some(of(set)? + set.reads), 0);
    let ratio = |above: fn(&Found) -> Option<f64>, below: fn(&Found) -> Option<f64>| {
        over(
            &|set| Some((above(set)? + set.reads) / (below(set)? + set.reads)),
            2,
        )
    };
    vec![
        generation.to_string(),
        many.to_string(),
        seconds(|set| Some(set.came)),
        seconds(|set| Some(set.lying)),
        seconds(|set| Some(set.nearest)),
        seconds(|set| Some(set.ours)),
        seconds(|set| set.best),
        seconds(|set| set.bound),
        ratio(|set| Some(set.came), |set| Some(set.ours)),
        ratio(|set| Some(set.nearest), |set| Some(set.ours)),
        ratio(|set| Some(set.ours), |set| set.best),
        over(&|set| Some(set.ours / set.best?), 2),
        ratio(|set| set.best, |set| set.bound),
    ]
}
