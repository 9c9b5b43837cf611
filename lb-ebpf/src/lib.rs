//! The datapath as a pure library: generic over hook ([`packet::Packet`]) and family ([`family::Family`]) by static
//! dispatch, with the maps behind [`tables::Tables`]. It names neither aya nor a static, so the same code runs under
//! `cargo test` on the host (crate `sim`) and, behind the thin entry points of `kernel/`, in the kernel.
//!
//! The road of a packet: [`parse`] → flow lookup ([`index`]) → service lookup ([`begin`]) → [`select`] → remember ([`flow`]) →
//! [`rewrite`] → [`forward`]; [`pipeline`] is that sentence as code. Fragments ([`frag`]) and ICMP errors ([`icmp`])
//! take the slow program of the same hook. [`sock`] does the same at a socket, before there is a packet.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod affinity;
pub mod begin;
pub mod csum;
pub mod family;
pub mod flow;
pub mod forward;
pub mod frag;
pub mod icmp;
pub mod index;
pub mod mem;
pub mod packet;
pub mod parse;
pub mod pipeline;
pub mod reject;
pub mod rewrite;
pub mod seen;
pub mod select;
pub mod sock;
pub mod tables;
