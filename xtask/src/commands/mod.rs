//! The project commands, one module each: an `Args` for clap and a `run`.

pub mod bench;
pub mod build;
pub mod demo;
pub mod lab;
pub mod lint;
pub mod run;
pub mod test;
