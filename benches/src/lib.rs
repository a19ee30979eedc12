//! Empty: the benchmarks are beside this folder.
