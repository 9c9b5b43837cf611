//! Fairway's agent as a library: sources → stores → `compile` → `plan::diff` → `apply`.

pub mod model;
pub mod tables;
