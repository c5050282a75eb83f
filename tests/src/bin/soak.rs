//! `soak [SEED=n | FROM=n] [STATES=n] [MINUTES=n] [JOBS=n] [GOAL=n]`: power cuts without end; see `mars_tests::sim::soak`.
fn main() -> std::process::ExitCode {
    mars_tests::sim::soak::main()
}
