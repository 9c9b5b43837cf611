//! Fairway's agent as a library: sources → stores → `compile` → `plan::diff` → `apply`.

pub mod admin;
pub mod app;
pub mod apply;
pub mod cli;
pub mod compile;
pub mod config;
pub mod datapath;
pub mod error;
pub mod hostcheck;
pub mod kube;
pub mod model;
pub mod node;
pub mod plan;
pub mod restore;
pub mod sources;
pub mod tables;
pub mod telemetry;
