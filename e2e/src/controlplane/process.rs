//! Processes that cannot outlive the process that started them.
//!
//! In: a program, its arguments and environment, a log file. Out: a [`Process`] that can be killed, stopped,
//! continued and measured. Used for the components of a control plane and by tests for the operator itself.
//!
//! Guarantee: however the starting process ends, `kill -9` included, the kernel kills the child. It is started by
//! `setpriv --pdeathsig KILL` (util-linux). Two traps are taken care of:
//!
//! * The kernel sends that signal when the *thread* that forked ends, so all children are forked by one thread that
//!   lives as long as the process; test threads and runtime workers come and go.
//! * A parent that dies before the child has asked for the signal would be missed, so the child then compares its
//!   parent with the one it was given and gives up if they differ.
//!
//! What the child starts itself is not covered by the kernel's promise; none of the programs here starts anything.
//!
//! A child gets its own process group, so Ctrl-C in a terminal reaches only the process that started it.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// What to start.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    /// For messages.
    pub name: String,
    /// An existing file.
    pub program: PathBuf,
    /// Arguments, without the program.
    pub args: Vec<String>,
    /// Added to the environment of this process.
    pub env: BTreeMap<String, String>,
    /// Both outputs are appended to it.
    pub log: PathBuf,
}

/// A running (or ended, not yet dropped) child. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    spec: ProcessSpec,
    child: Mutex<Child>,
}

impl Process {
    /// Starts the program.
    pub fn start(spec: ProcessSpec) -> Result<Self> {
        if !spec.program.is_file() {
            bail!("{}: there is no program {}", spec.name, spec.program.display());
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&spec.log)
            .with_context(|| format!("opening the log {}", spec.log.display()))?;
        let mut command = bound_to_this_process(&spec.program);
        command.args(&spec.args).envs(&spec.env).stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log);
        let child = fork(command).with_context(|| {
            format!("starting {} through setpriv (package util-linux)", spec.program.display())
        })?;
        Ok(Self { spec, child: Mutex::new(child) })
    }

    /// The process id; valid until the value is dropped, since the child is not reaped before it is waited for here.
    pub fn pid(&self) -> u32 {
        self.lock().id()
    }

    /// The exit status if the process has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.lock().try_wait().ok().flatten()
    }

    /// `kill -9`, and waits until it is gone. Does nothing when it has ended already.
    pub fn kill(&self) -> Result<()> {
        let mut child = self.lock();
        if child.try_wait()?.is_none() {
            // Its whole group, should it have children of its own.
            kill_process_group(Pid::from_child(&child), Signal::KILL)?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// SIGSTOP: the process keeps its connections and does nothing.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Resident memory now, in bytes.
    pub fn rss(&self) -> Result<u64> {
        self.status_bytes("VmRSS:")
    }

    /// The most resident memory it ever had, in bytes.
    pub fn peak_rss(&self) -> Result<u64> {
        self.status_bytes("VmHWM:")
    }

    /// Processor time used so far, user and system together, in seconds.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = self.proc_file("stat")?;
        // The second field is the name in parentheses and may contain spaces; fields 14 and 15 are utime and stime.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse::<u64>)
            .sum::<Result<u64, _>>()
            .with_context(|| format!("{}: reading its processor time", self.spec.name))?;
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.spec.log
    }

    /// The first and last lines of its output, for messages.
    pub fn log_tail(&self) -> String {
        excerpt(&self.spec.log)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let mut child = self.lock();
        if let Some(status) = child.try_wait()? {
            bail!("{} is not running any more ({status})", self.spec.name);
        }
        let pid = Pid::from_child(&child);
        kill_process(pid, signal).with_context(|| format!("{signal:?} to {}", self.spec.name))
    }

    fn status_bytes(&self, field: &str) -> Result<u64> {
        let status = self.proc_file("status")?;
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse::<u64>().ok())
            .map(|kib| kib * 1024)
            .with_context(|| format!("{}: no {field} in /proc, has it ended?", self.spec.name))
    }

    fn proc_file(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.pid());
        std::fs::read_to_string(&path).with_context(|| format!("{}: reading {path}", self.spec.name))
    }

    fn lock(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error here means that there is nothing left to kill.
        let _ = self.kill();
    }
}

/// A command that runs `program` and dies with this process. Its process id is the program's own: every step execs.
fn bound_to_this_process(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "sh", "-c", r#"[ "$PPID" = "$0" ] || exit 125; exec "$@""#])
        .arg(std::process::id().to_string())
        .arg(program)
        .process_group(0);
    command
}

type Request = (Command, mpsc::SyncSender<io::Result<Child>>);

/// Forks in the one thread that lives as long as this process.
fn fork(command: Command) -> io::Result<Child> {
    static FORKER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    let forker = FORKER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        std::thread::Builder::new()
            .name("forker".to_owned())
            .spawn(move || {
                for (mut command, answer) in requests {
                    // Nobody is left to hear the answer only if the asking thread is gone; the child then is, too:
                    // `Child` does not kill on drop, but the kernel does when this process ends.
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a thread can be started: the program could not have come this far without");
        sender
    });
    let (answer, child) = mpsc::sync_channel(1);
    let gone = || io::Error::other("the forking thread has ended");
    forker.send((command, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

/// The first and the last lines of a text file: a program that refuses its arguments says so first, one that fails
/// later says so last. A note instead when it cannot be read.
fn excerpt(path: &Path) -> String {
    const FIRST: usize = 5;
    const LAST: usize = 15;
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            if lines.len() <= FIRST + LAST {
                return lines.join("\n");
            }
            let left_out = lines.len() - FIRST - LAST;
            let (first, last) = (lines[..FIRST].join("\n"), lines[FIRST + left_out..].join("\n"));
            format!("{first}\n({left_out} lines)\n{last}")
        }
        Err(error) => format!("(no log at {}: {error})", path.display()),
    }
}
