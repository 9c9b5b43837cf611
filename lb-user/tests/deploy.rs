//! The manifests ask for what deploy/README.md explains, and for nothing more (reliability T47).
//!
//! The policy is a list of everything that is allowed; whatever a manifest has beyond it is a finding. That the policy
//! bites is tested by adding one privilege after the other.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use clap::Parser;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, PodSpec, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use lb_user::config::RunArgs;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const CAPABILITIES: [&str; 3] = ["BPF", "NET_ADMIN", "PERFMON"];
/// Host path, where the container sees it, read-only.
const HOST_PATHS: [(&str, &str, bool); 3] = [
    ("/sys/fs/bpf/fairway", "/sys/fs/bpf/fairway", false),
    ("/sys/fs/cgroup", "/host/cgroup", true),
    ("/run/fairway", "/run/fairway", false),
];
/// Group, resource, verbs.
const RULES: [(&str, &str, &[&str]); 5] = [
    ("", "services", &["list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    ("networking.k8s.io", "servicecidrs", &["list", "watch"]),
    ("", "nodes", &["list", "watch"]),
    ("events.k8s.io", "events", &["create", "patch"]),
];

fn deploy() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Every document of every manifest.
fn manifests() -> Vec<Value> {
    let mut documents = Vec::new();
    for name in ["rbac.yaml", "daemonset.yaml"] {
        let text = fs::read_to_string(deploy().join("kubernetes").join(name)).expect("readable");
        for document in serde_norway::Deserializer::from_str(&text) {
            documents.push(Value::deserialize(document).expect("YAML"));
        }
    }
    documents
}

/// The typed object; a field that Kubernetes does not know would vanish on the way, and is a finding.
fn typed<T: DeserializeOwned + serde::Serialize>(document: &Value, findings: &mut Vec<String>) -> Option<T> {
    let object: T = match serde_json::from_value(document.clone()) {
        Ok(object) => object,
        Err(error) => {
            findings.push(format!("{}: {error}", document["kind"]));
            return None;
        }
    };
    let back = serde_json::to_value(&object).expect("JSON");
    if back != *document {
        findings.push(format!("{}: a field is unknown: {document} became {back}", document["kind"]));
    }
    Some(object)
}

/// Everything that the policy does not allow.
fn findings(documents: &[Value]) -> Vec<String> {
    let mut findings = Vec::new();
    for document in documents {
        match document["kind"].as_str() {
            Some("ServiceAccount") => {
                if let Some(account) = typed::<ServiceAccount>(document, &mut findings)
                    && account.automount_service_account_token != Some(false)
                {
                    findings.push("the account's token is mounted everywhere".to_owned());
                }
            }
            Some("ClusterRole") => {
                let role: Option<ClusterRole> = typed(document, &mut findings);
                findings.extend(role.iter().flat_map(check_role));
            }
            Some("ClusterRoleBinding") => {
                let binding: Option<ClusterRoleBinding> = typed(document, &mut findings);
                if binding
                    .is_some_and(|b| b.role_ref.name != "fairway" || b.subjects.map_or(0, |s| s.len()) != 1)
                {
                    findings.push("the binding is not of one role to one account".to_owned());
                }
            }
            Some("DaemonSet") => {
                let set: Option<DaemonSet> = typed(document, &mut findings);
                let pod = set.and_then(|s| s.spec).and_then(|s| s.template.spec);
                match pod {
                    Some(pod) => findings.extend(check_pod(&pod)),
                    None => findings.push("the DaemonSet has no pod".to_owned()),
                }
            }
            other => findings.push(format!("an object of kind {other:?}")),
        }
    }
    findings
}

fn check_role(role: &ClusterRole) -> Vec<String> {
    let allowed: BTreeSet<(String, String, String)> = RULES
        .iter()
        .flat_map(|(group, resource, verbs)| {
            verbs.iter().map(|v| (String::from(*group), String::from(*resource), String::from(*v)))
        })
        .collect();
    let mut asked = BTreeSet::new();
    for rule in role.rules.iter().flatten() {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                asked.extend(rule.verbs.iter().map(|v| (group.clone(), resource.clone(), v.clone())));
            }
        }
    }
    let urls = role.rules.iter().flatten().filter(|r| r.non_resource_urls.is_some());
    let differ = asked.symmetric_difference(&allowed).map(|rule| format!("rule {rule:?} is not as allowed"));
    differ.chain(urls.map(|_| "a rule for URLs".to_owned())).collect()
}

fn check_pod(pod: &PodSpec) -> Vec<String> {
    let mut findings = Vec::new();
    let mut check = |good: bool, what: &str| {
        if !good {
            findings.push(what.to_owned());
        }
    };
    check(pod.host_network == Some(true), "hostNetwork is needed");
    check(
        pod.host_pid.is_none() && pod.host_ipc.is_none() && pod.host_users.is_none(),
        "a host namespace too much",
    );
    check(pod.automount_service_account_token == Some(false), "the token is mounted by default");
    check(pod.init_containers.is_none() && pod.ephemeral_containers.is_none(), "another container");
    check(pod.security_context.is_none(), "a security context of the pod");
    check(pod.containers.len() == 1, "one container");
    let mounts: BTreeSet<(&str, &str, bool)> = HOST_PATHS.into_iter().collect();
    let mut mounted = BTreeSet::new();
    for volume in pod.volumes.iter().flatten() {
        let places = pod.containers.iter().flat_map(|c| c.volume_mounts.iter().flatten());
        for place in places.filter(|m| m.name == volume.name) {
            let read_only = place.read_only == Some(true);
            match &volume.host_path {
                Some(host) => {
                    mounted.insert((host.path.as_str(), place.mount_path.as_str(), read_only));
                }
                None => check(
                    volume.projected.is_some() && read_only,
                    "a volume that is neither host path nor token",
                ),
            }
            check(place.mount_propagation.is_none(), "mounts travel");
        }
    }
    check(mounted == mounts, "host paths differ from the list");
    for container in &pod.containers {
        findings.extend(check_container(container));
    }
    findings
}

fn check_container(container: &Container) -> Vec<String> {
    let context = serde_json::to_value(&container.security_context).expect("JSON");
    let wanted = json!({
        "runAsUser": 0,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"], "add": CAPABILITIES},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let limited = limits.is_some_and(|l| l.contains_key("memory") && l.contains_key("cpu"));
    let probe = |probe: &Option<k8s_openapi::api::core::v1::Probe>| {
        probe.as_ref().and_then(|p| p.http_get.as_ref()?.path.clone()).unwrap_or_default()
    };
    [
        (context == wanted, format!("the security context is {context}")),
        (limited, "no limits".to_owned()),
        (probe(&container.liveness_probe) == "/livez", "liveness".to_owned()),
        (probe(&container.readiness_probe) == "/readyz", "readiness".to_owned()),
    ]
    .into_iter()
    .filter(|(good, _)| !good)
    .map(|(_, what)| what)
    .collect()
}

#[test]
fn the_manifests_ask_for_what_is_explained_and_nothing_more() {
    assert_eq!(findings(&manifests()), Vec::<String>::new());
    let explained = fs::read_to_string(deploy().join("README.md")).expect("readable");
    let words = CAPABILITIES.iter().map(|c| format!("`CAP_{c}`"));
    let words = words.chain(HOST_PATHS.iter().map(|(path, ..)| format!("`{path}`")));
    let words = words.chain(RULES.iter().map(|(_, resource, _)| (*resource).to_owned()));
    for word in words {
        assert!(explained.contains(&word), "deploy/README.md does not explain {word}");
    }
}

/// Changes the one object of a kind.
fn changed(kind: &str, change: impl FnOnce(&mut Value)) -> Vec<Value> {
    let mut documents = manifests();
    change(documents.iter_mut().find(|d| d["kind"] == kind).expect("there is one"));
    documents
}

#[test]
fn whatever_is_added_is_found() {
    let pod = "/spec/template/spec";
    let container = "/spec/template/spec/containers/0";
    let context = "/spec/template/spec/containers/0/securityContext";
    let additions: [(&str, &str, &str, Value); 14] = [
        ("ClusterRole", "/rules/0", "verbs", json!(["list", "watch", "update"])),
        ("ClusterRole", "/rules/0", "resources", json!(["services", "secrets"])),
        ("ClusterRole", "/rules/0", "nonResourceURLs", json!(["/metrics"])),
        (
            "DaemonSet",
            &format!("{context}/capabilities"),
            "add",
            json!(["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"]),
        ),
        ("DaemonSet", &format!("{context}/capabilities"), "drop", json!([])),
        ("DaemonSet", context, "privileged", json!(true)),
        ("DaemonSet", context, "readOnlyRootFilesystem", json!(false)),
        ("DaemonSet", context, "procMount", json!("Unmasked")),
        ("DaemonSet", &format!("{context}/seccompProfile"), "type", json!("Unconfined")),
        ("DaemonSet", pod, "hostPID", json!(true)),
        ("DaemonSet", pod, "initContainers", json!([{"name": "more", "image": "more"}])),
        ("DaemonSet", &format!("{pod}/volumes/0/hostPath"), "path", json!("/sys/fs/bpf")),
        ("DaemonSet", &format!("{container}/volumeMounts/1"), "readOnly", json!(false)),
        ("DaemonSet", container, "securityContexts", json!({})),
    ];
    for (kind, place, field, value) in additions {
        let documents = changed(kind, |object| {
            object.pointer_mut(place).unwrap_or_else(|| panic!("{kind} has {place}"))[field] = value.clone();
        });
        assert!(!findings(&documents).is_empty(), "{kind} {place}/{field} = {value} was not found");
    }
    let mut more = manifests();
    more.push(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}));
    assert!(!findings(&more).is_empty());
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
}

#[test]
fn the_daemonsets_arguments_are_flags_that_the_agent_knows() {
    let documents = manifests();
    let set = documents.iter().find(|d| d["kind"] == "DaemonSet").expect("a DaemonSet");
    let arguments = set.pointer("/spec/template/spec/containers/0/args").expect("arguments");
    let arguments: Vec<String> = serde_json::from_value(arguments.clone()).expect("texts");
    assert_eq!(arguments[0], "run");
    let config = Cli::try_parse_from(&arguments).expect("flags").run.into_config("node").expect("valid");
    let health = config.healthz_bind_address.expect("health is served");
    let probe = set.pointer("/spec/template/spec/containers/0/livenessProbe/httpGet/port");
    assert_eq!(probe, Some(&json!(health.port())));
}
