//! Kubeconfig files: one user, one cluster, everything inline, so that a file can be copied or mounted as it is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::certificates::Pair;

/// Writes the kubeconfig of the holder of `pair` for the API server at `server` (`https://host:port`).
pub(super) fn write(path: &Path, server: &str, authority: &str, pair: &Pair) -> Result<()> {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "local",
            "cluster": { "server": server, "certificate-authority-data": bytes(authority) },
        }],
        "users": [{
            "name": "user",
            "user": {
                "client-certificate-data": bytes(&pair.certificate),
                "client-key-data": bytes(&pair.key),
            },
        }],
        "contexts": [{ "name": "local", "context": { "cluster": "local", "user": "user" } }],
        "current-context": "local",
    });
    write_private(path, &serde_json::to_string_pretty(&config)?)
}

/// Writes a copy of a kubeconfig with one user that proves itself by a token instead.
pub(super) fn write_with_token(from: &Path, path: &Path, token: &str) -> Result<()> {
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(from)?)
        .with_context(|| format!("{} was written as JSON", from.display()))?;
    for user in config["users"].as_array_mut().into_iter().flatten() {
        user["user"] = json!({ "token": token });
    }
    write_private(path, &serde_json::to_string_pretty(&config)?)
}

/// The kubeconfig in use outside (`KUBECONFIG` or `~/.kube/config`), cut down to one context and written to `folder`.
pub(super) fn write_from_context(folder: &Path, context: &str) -> Result<PathBuf> {
    let mut config =
        kube::config::Kubeconfig::read().context("reading the kubeconfig of TRAINYARD_E2E_CONTEXT")?;
    let named = config
        .contexts
        .iter()
        .find(|c| c.name == context)
        .with_context(|| {
            format!("no context {context:?} in the kubeconfig, which TRAINYARD_E2E_CONTEXT names")
        })?
        .clone();
    let (cluster, user) =
        named.context.as_ref().map(|c| (c.cluster.clone(), c.user.clone())).unwrap_or_default();
    config.clusters.retain(|c| c.name == cluster);
    config.auth_infos.retain(|u| Some(&u.name) == user.as_ref());
    config.current_context = Some(named.name.clone());
    config.contexts = vec![named];
    let path = folder.join("admin.kubeconfig");
    write_private(&path, &serde_json::to_string_pretty(&config).context("writing a kubeconfig")?)?;
    Ok(path)
}

/// Writes a file only its owner can read.
pub(super) fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}
