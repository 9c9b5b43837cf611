//! What the agent tells: its log ([`log`]) and the files of the state directory ([`status`]).

pub mod log;
pub mod status;
