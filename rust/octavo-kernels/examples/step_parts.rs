//! Where the time of a step goes: a decoder of SmolLM2-135M's shape with random weights, by part.
//!
//!     cargo run --release -p octavo-kernels --example step_parts [threads] [format] [steps]
//!
//! format: Q4_1 (the default; the embedding, which is the head too, is Q8_0), float32, bfloat16, int8, int4, …
//! steps: those whose names begin like this, such as "prefill 8".

#[path = "../benches/decoder/model.rs"]
mod model;

use std::sync::Arc;
use std::time::{Duration, Instant};

use octavo_kernels::{CpuKernels, Format, PartTimes, StepPart};

use model::{Model, Shape};

const MEASURE: Duration = Duration::from_millis(1500);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.next().map_or(cores, |count| count.parse().expect("a number of threads"));
    let format: Format = arguments.next().as_deref().unwrap_or("Q4_1").parse().expect("a weight format");
    let kernels = Arc::new(CpuKernels::new(threads, None).expect("at least one thread"));
    let begin = arguments.next().unwrap_or_default();
    println!("{}, {threads} threads, {format}; medians in microseconds a step", kernels.isa());
    print!("{:>24} {:>9} {:>9}", "", "tokens/s", "total");
    for part in StepPart::ALL {
        print!(" {:>9}", part.name());
    }
    println!();
    let mut model = Model::new(&kernels, format);
    let decodes = [128, 1024].map(|context| [1, 4, 16, 32].map(|sequences| Shape::decode(sequences, context)));
    let prefills = [(1, 64), (1, 256), (1, 512), (8, 256), (1, 2048)];
    let shared = [4, 32].map(|sequences| Shape::decode_shared(sequences, 1024));
    let shapes = decodes
        .into_iter()
        .flatten()
        .chain(shared)
        .chain(prefills.map(|(count, tokens)| Shape::prefill(count, tokens)));
    for shape in shapes.filter(|shape| shape.name().starts_with(&begin)) {
        print_parts(&mut model, shape);
    }
}

fn print_parts(model: &mut Model, shape: Shape) {
    model.step(shape);
    let mut steps: Vec<PartTimes> = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < MEASURE || steps.len() < 3 {
        steps.push(model.step(shape));
    }
    let median = |of: &dyn Fn(&PartTimes) -> Duration| {
        let mut all: Vec<Duration> = steps.iter().map(of).collect();
        all.sort();
        all[all.len() / 2].as_secs_f64()
    };
    let total = median(&PartTimes::total);
    print!("{:>24} {:>9.0} {:>9.0}", shape.name(), shape.tokens() as f64 / total, total * 1e6);
    for part in StepPart::ALL {
        print!(" {:>9.0}", median(&|times| times.of(part)) * 1e6);
    }
    println!();
}
