//! What the agent tells: its log ([`log`]), the files of the state directory ([`status`]), its [`metrics`], problems
//! that are not an object's ([`problems`]) and what becomes an Event ([`notice`]).

pub mod log;
pub mod metrics;
pub mod notice;
pub mod problems;
pub mod status;
