//! `fairway-apiserver`: serves the objects of a directory of YAML files, and follows changes of the files.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use apiserver::{ApiServer, Kind, Options, manifests};
use clap::Parser;
use serde_json::Value;

/// A small Kubernetes API server for Services, EndpointSlices and Nodes from YAML files.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Directory of YAML files; looked at every second.
    #[arg(long)]
    manifests: PathBuf,
    /// Address to serve on.
    #[arg(long, default_value = "127.0.0.1:8001")]
    listen: SocketAddr,
    /// Serve TLS with a fresh certificate authority; trust it through --kubeconfig-out.
    #[arg(long)]
    tls: bool,
    /// Write a kubeconfig for this server to this file.
    #[arg(long)]
    kubeconfig_out: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args = Args::parse();
    let listener =
        TcpListener::bind(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    let server = ApiServer::start(Options { listener: Some(listener), tls: args.tls, ..Options::default() })?;
    let mut served = sync(&server, &args.manifests, &HashSet::new())?;
    if let Some(path) = &args.kubeconfig_out {
        std::fs::write(path, server.kubeconfig())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("serving {} objects of {} at {}", served.len(), args.manifests.display(), server.url());
    loop {
        std::thread::sleep(Duration::from_secs(1));
        match sync(&server, &args.manifests, &served) {
            Ok(now) => served = now,
            Err(error) => tracing::warn!("nothing changed: {error:#}"),
        }
    }
}

type Id = (Kind, String, String);

/// Makes the server's objects those of the files.
fn sync(server: &ApiServer, dir: &std::path::Path, served: &HashSet<Id>) -> anyhow::Result<HashSet<Id>> {
    let mut now = HashSet::new();
    for object in manifests::read_dir(dir)? {
        let Some(kind) = Kind::of(&object) else { continue };
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let namespace = match kind.namespaced() {
            true => text("/metadata/namespace").unwrap_or_else(|| "default".into()),
            false => String::new(),
        };
        now.insert((kind, namespace, text("/metadata/name").unwrap_or_default()));
        server.apply(object)?;
    }
    for (kind, namespace, name) in served.difference(&now) {
        server.delete(*kind, namespace, name);
    }
    Ok(now)
}
