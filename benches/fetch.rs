//! fetch
fn main(){}
