//! The folder of one running control plane: `<checkout>/.local/run/<name>/`.
//!
//! Guarantees: one live owner per folder, and no folder after its owner's end. The owner holds a file lock, which the
//! kernel gives back however the owner ends; that is how the living are told from the dead. A janitor process waits
//! for the owner's end on a pipe and removes the folder; should it be killed as well, the next start does.
//! `TRAINYARD_KEEP_RUN=1` keeps the folder with its logs until the next start.

use std::fs::{self, File, TryLockError};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::ports::Ports;

const LOCK: &str = "lock";
const OWNER: &str = "owner.json";

/// What a folder says about its owner; for `controlplane list` and `controlplane down`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Owner {
    /// Name of the control plane.
    pub name: String,
    /// The owning process.
    pub pid: u32,
    /// First port of the block the control plane listens on.
    pub first_port: u16,
    /// Set once the control plane answers.
    pub ready: bool,
}

pub(super) struct RunFolder {
    path: PathBuf,
    owner: Owner,
    janitor: Option<(ChildStdin, Child)>,
    /// Held until the end of this value; comes last, so that nobody sees the folder unlocked before it is removed.
    _lock: File,
}

impl RunFolder {
    /// Takes a new folder, after removing those of dead owners. Without a name it gets one of its own.
    pub fn take(name: Option<&str>) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let root = root();
        fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
        // Between making a folder and locking it, it looks dead: one process at a time.
        let entrance = File::create(root.join(".entrance"))?;
        entrance.lock()?;
        remove_stale(&root);

        let pid = std::process::id();
        let name = match name {
            Some(name) => checked(name)?.to_owned(),
            None => format!("p{pid}-{}", COUNT.fetch_add(1, Ordering::Relaxed)),
        };
        let path = root.join(&name);
        if path.exists() {
            bail!("the control plane {name:?} is running already; `controlplane down --name {name}` ends it");
        }
        let taken: Vec<u16> = live(&root)?.iter().map(|owner| owner.first_port).collect();
        let first_port = Ports::find_free_block(&taken)?;
        fs::create_dir(&path)?;
        let lock = File::create(path.join(LOCK))?;
        // Waits for nobody but those who look, in this moment, whether it has an owner.
        lock.lock().context("locking a folder that was just made")?;
        for sub in ["pki", "log"] {
            fs::create_dir(path.join(sub))?;
        }
        let owner = Owner { name, pid, first_port, ready: false };
        let janitor = if keep() { None } else { Some(start_janitor(&path)?) };
        let folder = Self { path, owner, janitor, _lock: lock };
        folder.write_owner()?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    pub fn set_ready(&mut self) -> Result<()> {
        self.owner.ready = true;
        self.write_owner()
    }

    fn write_owner(&self) -> Result<()> {
        let (new, path) = (self.path.join("owner.new"), self.path.join(OWNER));
        fs::write(&new, serde_json::to_string(&self.owner)?)?;
        fs::rename(&new, &path).with_context(|| format!("writing {}", path.display()))
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if let Some((stdin, mut child)) = self.janitor.take() {
            drop(stdin);
            let _ = child.wait();
        }
    }
}

/// Every control plane of this checkout that has a live owner.
pub fn live_control_planes() -> Result<Vec<Owner>> {
    live(&root())
}

/// Ends the control plane of that name and waits until nothing of it is left; false when there is none. An owner that
/// does not end by itself within 20 seconds is killed, which ends its control plane as surely.
pub fn end_control_plane(name: &str) -> Result<bool> {
    let folder = folder_of(checked(name)?);
    let Some(owner) = live(&root())?.into_iter().find(|owner| owner.name == name) else {
        return Ok(false);
    };
    let pid =
        i32::try_from(owner.pid).ok().and_then(Pid::from_raw).context("the owner's process id is one")?;
    for signal in [Signal::TERM, Signal::KILL] {
        if has_owner(&folder) {
            // It may end by itself in this moment.
            let _ = kill_process(pid, signal);
        }
        for _ in 0..400 {
            if !folder.exists() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if !has_owner(&folder) {
            remove_stale(&root());
        }
    }
    Ok(true)
}

/// The folder of a control plane by name.
pub fn folder_of(name: &str) -> PathBuf {
    root().join(name)
}

/// `<checkout>/.local`: all that is built or written by running anything here.
pub(super) fn local_folder() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).join(".local")
}

fn root() -> PathBuf {
    local_folder().join("run")
}

fn checked(name: &str) -> Result<&str> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 40 || !name.chars().all(plain) || name.starts_with('-') {
        bail!("{name:?} is no name for a control plane: lower-case letters, digits and dashes, at most 40");
    }
    Ok(name)
}

fn keep() -> bool {
    std::env::var_os("TRAINYARD_KEEP_RUN").is_some_and(|value| value == "1")
}

fn folders(root: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(root) {
        Ok(entries) => Ok(entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", root.display())),
    }
}

/// Whether a process holds the folder's lock. Those who look share it, so they do not see each other.
fn has_owner(folder: &Path) -> bool {
    match File::open(folder.join(LOCK)) {
        Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

fn live(root: &Path) -> Result<Vec<Owner>> {
    let mut owners: Vec<Owner> = folders(root)?
        .iter()
        .filter(|folder| has_owner(folder))
        .filter_map(|folder| serde_json::from_str(&fs::read_to_string(folder.join(OWNER)).ok()?).ok())
        .collect();
    owners.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(owners)
}

/// Removes folders without an owner. Processes of an owner killed a moment ago may still write there, so it tries for
/// a second; what resists longer is left to the next start.
fn remove_stale(root: &Path) {
    for folder in folders(root).unwrap_or_default().iter().filter(|folder| !has_owner(folder)) {
        for _ in 0..20 {
            if fs::remove_dir_all(folder).is_ok() || !folder.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Removes the folder when its standard input ends, that is when the owner closes it or is gone. The processes of a
/// killed owner may still be dying and writing at that moment, so it tries until the folder is gone, for 10 seconds.
fn start_janitor(folder: &Path) -> Result<(ChildStdin, Child)> {
    let script = r#"cat >/dev/null; i=0; while [ -e "$0" ] && [ $i -lt 200 ]; do rm -rf "$0" 2>/dev/null || sleep 0.05; i=$((i+1)); done"#;
    let mut child = Command::new("sh")
        .args(["-c", script])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("starting the process that removes the folder at the end")?;
    let stdin = child.stdin.take().context("its standard input is a pipe")?;
    Ok((stdin, child))
}
