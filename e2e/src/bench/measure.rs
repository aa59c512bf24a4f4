//! Programs run to their end, and what they cost according to the kernel.
//!
//! The kernel counts the memory of a child from before it became the program: a child of a large process never weighs less
//! than that process. So a small process is put in between, `e2e launch`, which does nothing else.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use wait4::Wait4 as _;

/// What is started together: all of it is one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// Where the programs run, and leave what they print.
    pub(crate) folder: PathBuf,
    /// How many at a time.
    pub(crate) jobs: usize,
    /// The programs with their arguments.
    pub(crate) commands: Vec<Vec<String>>,
    /// Their environment besides `PATH`.
    pub(crate) env: Vec<(String, String)>,
    /// A file with their standard input.
    pub(crate) stdin: Option<PathBuf>,
}

/// What a run cost.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Seconds from the first start to the last end.
    pub(crate) wall: f64,
    /// Seconds of processors, in programs and kernel.
    pub(crate) cpu: f64,
    /// The most memory; of programs at the same time the sum of the largest ones.
    pub(crate) bytes: u64,
    /// Programs that failed.
    pub(crate) failed: usize,
}

/// Runs everything in a process between.
pub(crate) async fn run(launch: &Launch) -> Result<Cost> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("launch")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the process between")?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(&serde_json::to_vec(launch)?)?;
    drop(stdin);
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
    ensure!(output.status.success(), "the process between: {}", output.status);
    serde_json::from_slice(&output.stdout).context("reading what a run cost")
}

/// The process between: reads a [`Launch`], runs it, prints a [`Cost`].
pub(crate) fn launch() -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let launch: Launch = serde_json::from_str(&text)?;
    let output = fs::File::options().create(true).append(true).open(launch.folder.join("output"))?;
    let queue = Mutex::new(launch.commands.iter().collect::<VecDeque<_>>());
    let costs = Mutex::new(Vec::new());
    let started = Instant::now();
    std::thread::scope(|scope| {
        let worker = || -> Result<()> {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(command) = next else { return Ok(()) };
                let cost = one(&launch, command, output.try_clone()?)?;
                costs.lock().unwrap_or_else(PoisonError::into_inner).push(cost);
            }
        };
        let workers: Vec<_> = (0..launch.jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("a thread died")))
    })?;
    let wall = started.elapsed().as_secs_f64();
    let mut costs = costs.into_inner().unwrap_or_else(PoisonError::into_inner);
    costs.sort_by_key(|cost| std::cmp::Reverse(cost.bytes));
    let cost = Cost {
        wall,
        cpu: costs.iter().map(|cost| cost.cpu).sum(),
        bytes: costs.iter().take(launch.jobs).map(|cost| cost.bytes).sum(),
        failed: costs.iter().map(|cost| cost.failed).sum(),
    };
    std::io::stdout().write_all(&serde_json::to_vec(&cost)?)?;
    Ok(())
}

fn one(launch: &Launch, command: &[String], output: fs::File) -> Result<Cost> {
    let (program, args) = command.split_first().context("no program")?;
    let stdin = match &launch.stdin {
        Some(path) => Stdio::from(fs::File::open(path)?),
        None => Stdio::null(),
    };
    let child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(launch.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&launch.folder)
        .stdin(stdin)
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let ended = child.wait4()?;
    let usage = ended.rusage;
    Ok(Cost {
        wall: 0.0,
        cpu: (usage.utime + usage.stime).as_secs_f64(),
        bytes: usage.maxrss,
        failed: usize::from(!ended.status.success()),
    })
}

/// Counts the connections that clients make to ports of this machine, as Linux lists them; they stay listed for a minute.
pub(crate) struct Connections {
    ports: BTreeSet<u16>,
    before: BTreeSet<(u16, u16)>,
    seen: Arc<Mutex<BTreeSet<(u16, u16)>>>,
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Often enough that no port comes round twice, seldom enough to cost nothing.
const LOOK: Duration = Duration::from_millis(500);

impl Connections {
    /// Starts to count.
    pub(crate) fn count(ports: &[u16]) -> Self {
        let ports: BTreeSet<u16> = ports.iter().copied().collect();
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let before = listed(&ports);
        let thread = {
            let (ports, seen, ended) = (ports.clone(), Arc::clone(&seen), Arc::clone(&ended));
            std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).extend(listed(&ports));
                    std::thread::park_timeout(LOOK);
                }
            })
        };
        Self { ports, before, seen, ended, thread: Some(thread) }
    }

    /// How many there were.
    pub(crate) fn end(mut self) -> usize {
        self.stop();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.extend(listed(&self.ports));
        seen.difference(&self.before).count()
    }

    fn stop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            thread.join().ok();
        }
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Port of the server and of the client of each connection that is or was.
fn listed(ports: &BTreeSet<u16>) -> BTreeSet<(u16, u16)> {
    let text = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let port = |field: &str| u16::from_str_radix(field.split_once(':')?.1, 16).ok();
    let ends = text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote) = (port(fields.next()?)?, port(fields.next()?)?);
        let listening = remote == 0;
        if listening {
            return None;
        }
        Some(if ports.contains(&local) { (local, remote) } else { (remote, local) })
    });
    ends.filter(|(server, _)| ports.contains(server)).collect()
}
