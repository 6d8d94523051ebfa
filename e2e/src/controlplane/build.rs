//! Builds the programs of the control plane from released Go modules, by the ordinary `go build`.
//!
//! In: the folders under `e2e/controlplane/`, one Go module per tool family with exact versions in `go.mod` and
//! `go.sum` (in a shared one the families' requirements pull each other to versions that do not compile). Out: the
//! programs in [`bin_folder`], beside them `assets/` (Karpenter's CRDs, kwok's stages of
//! nodes) and `stamps/`. A family whose sources and settings have not changed since its stamp is skipped. Needs Go, and
//! the network or a filled module cache.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::binaries::{bin_folder, source};

/// Without the state of this checkout in the programs, which would make every commit a new build.
const BUILD_FLAGS: [&str; 1] = ["-buildvcs=false"];

/// One Go module folder and what is made of it.
struct Family {
    folder: &'static str,
    /// The module whose version names the family's.
    module: &'static str,
    /// (program, package).
    programs: &'static [(&'static str, &'static str)],
    /// Variables to set to the version, `{version}` replaced by `v1.2.3`, `{bare}` by `1.2.3`, `{major}`, `{minor}`:
    /// without them everything that compares versions misbehaves.
    stamps: &'static [&'static str],
    /// (asset, files inside `module`, joined by `---` lines).
    assets: &'static [(&'static str, &'static [&'static str])],
}

const FAMILIES: &[Family] = &[
    Family {
        folder: "etcd",
        module: "go.etcd.io/etcd/server/v3",
        programs: &[("etcd", "go.etcd.io/etcd/server/v3")],
        stamps: &[],
        assets: &[],
    },
    Family {
        folder: "kubernetes",
        module: "k8s.io/kubernetes",
        programs: &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ],
        stamps: &[
            "k8s.io/component-base/version.gitVersion={version}",
            "k8s.io/component-base/version.gitMajor={major}",
            "k8s.io/component-base/version.gitMinor={minor}",
            "k8s.io/component-base/version.gitTreeState=clean",
            "k8s.io/client-go/pkg/version.gitVersion={version}",
            "k8s.io/client-go/pkg/version.gitMajor={major}",
            "k8s.io/client-go/pkg/version.gitMinor={minor}",
            "k8s.io/client-go/pkg/version.gitTreeState=clean",
        ],
        assets: &[],
    },
    Family {
        folder: "kwok",
        module: "sigs.k8s.io/kwok",
        programs: &[("kwok", "sigs.k8s.io/kwok/cmd/kwok")],
        stamps: &[],
        assets: &[(
            "kwok-node-stages.yaml",
            &[
                "kustomize/stage/node/fast/node-initialize.yaml",
                "kustomize/stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
            ],
        )],
    },
    Family {
        folder: "karpenter",
        module: "sigs.k8s.io/karpenter",
        programs: &[("karpenter", ".")],
        stamps: &["sigs.k8s.io/karpenter/pkg/operator.Version={bare}"],
        // The module's archive has no symbolic links, so the node class comes from its own folder.
        assets: &[(
            "karpenter-crds.yaml",
            &[
                "kwok/charts/crds/autoscaling.x-k8s.io_capacitybuffers.yaml",
                "kwok/charts/crds/karpenter.sh_nodeclaims.yaml",
                "kwok/charts/crds/karpenter.sh_nodeoverlays.yaml",
                "kwok/charts/crds/karpenter.sh_nodepools.yaml",
                "kwok/apis/crds/karpenter.kwok.sh_kwoknodeclasses.yaml",
            ],
        )],
    },
    Family {
        folder: "helm",
        module: "helm.sh/helm/v3",
        programs: &[("helm", "helm.sh/helm/v3/cmd/helm")],
        stamps: &["helm.sh/helm/v3/internal/version.version={version}"],
        assets: &[],
    },
];

/// Builds what is missing or out of date; `report` gets a line for each step. Safe to run from several processes.
pub fn build(report: impl Fn(&str)) -> Result<()> {
    let bin = bin_folder();
    fs::create_dir_all(bin.join("stamps")).with_context(|| format!("making {}", bin.display()))?;
    fs::create_dir_all(bin.join("assets"))?;
    let lock = File::create(bin.join("stamps/.lock"))?;
    lock.lock().context("waiting for another build")?;
    for family in FAMILIES {
        family.build(&bin, &report)?;
    }
    Ok(())
}

/// Fails, saying what to do, when programs of ours were built from other sources than those in this checkout.
pub(super) fn check_current() -> Result<()> {
    let bin = bin_folder();
    for family in FAMILIES {
        match fs::read_to_string(family.stamp_path(&bin)) {
            Ok(stamp) if stamp != family.stamp()? => bail!(
                "{} was built from other sources than e2e/controlplane/{}; run `cargo run -p trainyard-e2e --bin controlplane build`",
                family.folder,
                family.folder
            ),
            _ => {}
        }
    }
    Ok(())
}

impl Family {
    fn build(&self, bin: &Path, report: &impl Fn(&str)) -> Result<()> {
        let stamp = self.stamp()?;
        let made = |path: PathBuf| path.is_file();
        let complete = self.programs.iter().all(|(program, _)| made(bin.join(program)))
            && self.assets.iter().all(|(asset, _)| made(bin.join("assets").join(asset)));
        if complete && fs::read_to_string(self.stamp_path(bin)).is_ok_and(|old| old == stamp) {
            report(&format!("{}: up to date", self.folder));
            return Ok(());
        }
        let _ = fs::remove_file(self.stamp_path(bin));
        let version = self.version()?;
        let flags = self.linker_flags(&version)?;
        for (program, package) in self.programs {
            report(&format!("{}: building {program} {version}", self.folder));
            let start = Instant::now();
            let target = bin.join(program);
            let built = self
                .go()
                .arg("build")
                .args(BUILD_FLAGS)
                .args(["-ldflags", &flags, "-o"])
                .arg(&target)
                .arg(package)
                .status()
                .context("starting `go`; the control plane is built with Go")?;
            if !built.success() {
                bail!("go build {package} failed ({built})");
            }
            report(&format!("{}: built {program} in {:.0} s", self.folder, start.elapsed().as_secs_f64()));
        }
        for (asset, files) in self.assets {
            self.write_asset(&bin.join("assets").join(asset), files)?;
        }
        fs::write(self.stamp_path(bin), stamp)?;
        Ok(())
    }

    fn stamp_path(&self, bin: &Path) -> PathBuf {
        bin.join("stamps").join(self.folder)
    }

    /// A hash of everything that decides what the build makes, except the version of Go.
    fn stamp(&self) -> Result<String> {
        let folder = source(self.folder);
        let mut files: Vec<PathBuf> = fs::read_dir(&folder)
            .with_context(|| format!("reading {}", folder.display()))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "go" || e == "mod" || e == "sum"))
            .collect();
        files.sort();
        let mut hash = Sha256::new();
        for file in &files {
            hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            hash.update(fs::read(file).with_context(|| format!("reading {}", file.display()))?);
        }
        hash.update(format!("{BUILD_FLAGS:?}{:?}{:?}{:?}", self.programs, self.stamps, self.assets));
        Ok(format!("{:x}", hash.finalize()))
    }

    /// `v1.2.3`, as `go.mod` requires it.
    fn version(&self) -> Result<String> {
        let text = fs::read_to_string(source(self.folder).join("go.mod"))?;
        text.lines()
            .filter_map(|line| {
                line.trim()
                    .trim_start_matches("require ")
                    .strip_prefix(self.module)?
                    .split_whitespace()
                    .next()
            })
            .find(|version| version.starts_with('v'))
            .map(str::to_owned)
            .with_context(|| format!("e2e/controlplane/{}/go.mod requires no {}", self.folder, self.module))
    }

    fn linker_flags(&self, version: &str) -> Result<String> {
        let bare = version.trim_start_matches('v');
        let mut numbers = bare.split('.');
        let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
            bail!("{version:?} of {} is no version", self.module);
        };
        let mut flags = "-s -w".to_owned();
        for stamp in self.stamps {
            let set = stamp
                .replace("{version}", version)
                .replace("{bare}", bare)
                .replace("{major}", major)
                .replace("{minor}", minor);
            flags.push_str(" -X ");
            flags.push_str(&set);
        }
        Ok(flags)
    }

    fn write_asset(&self, target: &Path, files: &[&str]) -> Result<()> {
        let found = self.go().args(["list", "-m", "-f", "{{.Dir}}", self.module]).output()?;
        if !found.status.success() {
            bail!("go list -m {} failed: {}", self.module, String::from_utf8_lossy(&found.stderr));
        }
        let folder = PathBuf::from(String::from_utf8(found.stdout)?.trim());
        let documents = files
            .iter()
            .map(|file| {
                fs::read_to_string(folder.join(file))
                    .with_context(|| format!("reading {file} of {}", self.module))
            })
            .collect::<Result<Vec<_>>>()?;
        fs::write(target, documents.join("\n---\n")).with_context(|| format!("writing {}", target.display()))
    }

    /// The toolchain at hand, never one fetched on the side; the versions in `go.sum`, never newer ones.
    fn go(&self) -> Command {
        let mut go = Command::new("go");
        go.current_dir(source(self.folder))
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-mod=readonly")
            .env("GOWORK", "off")
            .env("CGO_ENABLED", "0");
        go
    }
}
