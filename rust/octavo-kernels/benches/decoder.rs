//! Whole steps of a decoder of SmolLM2-135M's shape, in tokens a second: decode by batch and context, and prefill.
//!
//! `cargo bench -p octavo-kernels --bench decoder [-- FILTER]`. Every step ends with the logits of each sequence's last
//! token. All of it runs on every processor of the machine. examples/step_parts.rs shows where the time goes.

#[path = "decoder/model.rs"]
mod model;

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use octavo_kernels::{CpuKernels, Format, Isa};

use model::{Model, Shape};

const SHAPES: [Shape; 9] = [
    Shape::decode(1, 128),
    Shape::decode(16, 128),
    Shape::decode(32, 128),
    Shape::decode(1, 1024),
    Shape::decode(16, 1024),
    Shape::decode(32, 1024),
    Shape::decode_shared(32, 1024),
    Shape::prefill(1, 512),
    Shape::prefill(1, 2048),
];

fn steps(criterion: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // The portable code would take minutes.
    for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Portable) {
        for format in [Format::Q4_1, Format::Q8_0, Format::Int8, Format::Bf16, Format::F32] {
            let mut group = criterion.benchmark_group(format!("{isa}/{format}"));
            // Filtered out, a format costs nothing.
            let mut model = None;
            for shape in SHAPES {
                group.throughput(Throughput::Elements(shape.tokens() as u64));
                group.bench_function(shape.name(), |bencher| {
                    let model = model.get_or_insert_with(|| {
                        let kernels = CpuKernels::new(threads, Some(isa)).expect("available");
                        Model::new(&Arc::new(kernels), format)
                    });
                    model.step(shape);
                    bencher.iter(|| model.step(shape));
                });
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(2));
    targets = steps
}
criterion_main!(benches);
