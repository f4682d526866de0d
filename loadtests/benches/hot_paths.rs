//! How long the hot paths take: `cargo bench -p loadtests`. On a busy machine the instructions that `counts` compares tell more.

use divan::Bencher;

#[path = "../src/paths.rs"]
mod paths;

fn main() {
    divan::main();
}

/// What is decided from a deployment's submit to its end, by itself.
#[divan::bench]
fn decision() {
    paths::decide().expect("it is decided");
}

/// A deployment as JSON.
#[divan::bench]
fn json(bencher: Bencher) {
    let deployment = paths::decide().expect("it is decided");
    bencher.bench_local(|| paths::json(&deployment).expect("it has a JSON form"));
}

/// The same decision with its transaction on SQLite, one commit for each: what the disk takes is in it.
#[divan::bench]
fn store(bencher: Bencher) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it starts");
    let own = paths::OwnStore::open().expect("it can be made");
    bencher.bench_local(|| runtime.block_on(own.pass()).expect("it is recorded"));
    runtime.block_on(own.close());
}
