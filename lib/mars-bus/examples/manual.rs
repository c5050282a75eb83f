//! Prints the part of `man/org.storage.mars1.5` between the two marks.
fn main() {
    print!("{}", mars_bus::manual(&mars_bus::interfaces::ALL));
}
