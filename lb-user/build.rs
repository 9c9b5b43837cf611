//! Puts the datapath object where the agent's loader embeds it from.
//!
//! In: `FAIRWAY_BPF_OBJ`, the path of the object, set by `cargo xtask`. Out: `$OUT_DIR/fairway-bpf.o`, and
//! `FAIRWAY_BPF_HASH`, the object's FNV-1a hash in hexadecimal. Without the variable (an editor, `cargo check`,
//! clippy) the file is empty and the hash is `none`; the loader says so when it is asked to load.

use std::{env, error::Error, fs, path::PathBuf};

const OBJECT_VARIABLE: &str = "FAIRWAY_BPF_OBJ";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OBJECT_VARIABLE}");
    let place = PathBuf::from(env::var("OUT_DIR")?).join("fairway-bpf.o");
    let object = match env::var_os(OBJECT_VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(&path).map_err(|error| {
                format!("{OBJECT_VARIABLE} is {}, which cannot be read: {error}", path.display())
            })?
        }
        None => Vec::new(),
    };
    fs::write(place, &object)?;
    let hash = if object.is_empty() { "none".to_owned() } else { format!("{:016x}", fnv1a(&object)) };
    println!("cargo::rustc-env=FAIRWAY_BPF_HASH={hash}");
    Ok(())
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
