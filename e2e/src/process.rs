//! Programs as child processes that never outlive the test, and the folder that belongs to one run.
//!
//! Every child is killed when its [`Process`] is dropped. A test that is itself killed drops nothing, and neither does
//! one that keeps its cluster in a `static`: for those a watchdog, one shell per test process, waits for the end of a
//! pipe that only the test process holds, then kills what is left and removes its folders. `PR_SET_PDEATHSIG` would not
//! do: it fires when the *thread* that started the child ends, and each test has a thread of its own.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, Once, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait::eventually;

/// What to start.
#[derive(Clone, Debug)]
pub struct Program {
    /// The short name, which also names the log file.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment, besides `PATH`.
    pub env: Vec<(String, String)>,
}

impl Program {
    /// A program without arguments and with an empty environment.
    pub fn new(name: &str, path: impl Into<PathBuf>) -> Self {
        Self { name: name.to_owned(), path: path.into(), args: Vec::new(), env: Vec::new() }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a program whose output is appended to `<logs>/<name>.out` and `<logs>/<name>.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(program: &Program, logs: &Path) -> Result<Self> {
        let open = |suffix: &str| -> Result<(PathBuf, File)> {
            let path = logs.join(format!("{}.{suffix}", program.name));
            let file = File::options().create(true).append(true).open(&path);
            let file = file.with_context(|| format!("opening {}", path.display()))?;
            Ok((path, file))
        };
        let (stdout, out) = open("out")?;
        let (stderr, err) = open("log")?;
        // The child waits for a line before it turns into the program: by then the watchdog knows it, and if this
        // process dies before, the line never comes.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read -r go && exec \"$@\" </dev/null", "sh"]).arg(&program.path).args(&program.args);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(program.env.iter().map(|(name, value)| (name, value)));
        // A group of its own: Ctrl-C reaches us first, and we end it in order.
        // Whatever it drops where it stands is dropped in the folder of the run.
        command.current_dir(logs.parent().unwrap_or(logs));
        command.process_group(0).stdin(Stdio::piped()).stdout(out).stderr(err);
        let mut child = command.spawn().with_context(|| format!("starting {}", program.path.display()))?;
        watchdog(&format!("+ {}", child.id()));
        let mut stdin = child.stdin.take().context("the child has no standard input")?;
        let process = Self { name: program.name.clone(), child, stdout, stderr, ended: None };
        stdin.write_all(b"go\n").with_context(|| format!("starting {}", program.path.display()))?;
        Ok(process)
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file with its standard output.
    pub fn stdout(&self) -> &Path {
        &self.stdout
    }

    /// The file with its standard error, where most programs log.
    pub fn stderr(&self) -> &Path {
        &self.stderr
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
            if self.ended.is_some() {
                watchdog(&format!("- {}", self.child.id()));
            }
        }
        Ok(self.ended)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the deadline has passed.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        let this = tokio::sync::Mutex::new(self);
        eventually(deadline, &what, || async { this.lock().await.try_wait() }).await
    }

    /// Its resident memory in bytes, as Linux counts it.
    ///
    /// # Errors
    /// When it has ended, or the system does not say.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most memory it has ever had resident.
    ///
    /// # Errors
    /// When it has ended.
    pub fn peak_bytes(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.ended.is_some() {
            bail!("{} has ended", self.name);
        }
        kill_process(self.pid()?, signal).with_context(|| format!("sending {signal:?} to {}", self.name))
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// When it has not ended at the deadline.
    pub async fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        if self.try_wait()?.is_none() {
            self.signal(Signal::TERM)?;
        }
        self.wait(deadline).await
    }

    /// Kills it (SIGKILL) and everything in its process group, and waits for the end.
    pub fn kill(&mut self) {
        if self.ended.is_none() {
            if let Ok(pid) = self.pid() {
                // An error means that nothing is left to kill.
                kill_process_group(pid, Signal::KILL).ok();
            }
            self.ended = self.child.wait().ok();
            watchdog(&format!("- {}", self.child.id()));
        }
    }

    /// Waits until `probe` yields a value; an early end of the process fails at once, with the end of its log.
    ///
    /// # Errors
    /// When the process ends first, or the deadline has passed.
    pub async fn ready<T, F, Fut>(&mut self, deadline: Duration, mut probe: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<Option<T>>>,
    {
        let what = format!("{} to be ready", self.name);
        let stderr = self.stderr.clone();
        let state = tokio::sync::Mutex::new((self, &mut probe));
        let outcome = eventually(deadline, &what, || async {
            let mut state = state.lock().await;
            if let Some(status) = state.0.try_wait()? {
                return Ok(Some(Err(status)));
            }
            let attempt = (state.1)();
            Ok(attempt.await?.map(Ok))
        })
        .await;
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(status)) => bail!("{what}: it ended ({status}); its log ends with\n{}", tail(&stderr)),
            Err(error) => Err(error.context(format!("its log ends with\n{}", tail(&stderr)))),
        }
    }

    fn pid(&self) -> Result<Pid> {
        Pid::from_raw(i32::try_from(self.child.id())?).context("process id 0")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a log file.
pub fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
}

/// The folder of one run: `logs/`, and whatever the programs keep beside it.
///
/// It lies below the build's target folder and is removed when it is dropped. After a panic, or with `E2E_KEEP_LOGS`
/// set, `logs/` stays, and its path is printed.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
}

static PANICKED: OnceLock<()> = OnceLock::new();

/// Bytes that have to be free where the servers of a test keep what they keep.
const ROOM: u64 = 2 << 30;

/// Where Linux keeps files in memory.
const MEMORY: &str = "/dev/shm";

impl RunFolder {
    /// Makes a fresh one, whose name starts with `name`.
    ///
    /// # Errors
    /// When it cannot be created, or there is too little room for what servers keep in it: they would fail in ways of their own.
    pub fn create(name: &str) -> Result<Self> {
        let base = target_folder().join("e2e");
        let run = Self::create_in(&base, name)?;
        let disk = rustix::fs::statvfs(&base).with_context(|| format!("asking for the room in {}", base.display()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        ensure!(
            free >= ROOM,
            "{} MiB are free in {}, and {} MiB at least are wanted: make room, then run this again",
            free >> 20,
            base.display(),
            ROOM >> 20
        );
        Ok(run)
    }

    /// The same in memory, where the system has such a place: for measurements that a disk has no part in.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn in_memory(name: &str) -> Result<Self> {
        let memory = Path::new(MEMORY);
        if memory.is_dir() { Self::create_in(&memory.join("imageset-mirror"), name) } else { Self::create(name) }
    }

    fn create_in(base: &Path, name: &str) -> Result<Self> {
        static HOOK: Once = Once::new();
        fs::create_dir_all(base).with_context(|| format!("creating {}", base.display()))?;
        let path = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(base)?.keep();
        fs::create_dir(path.join("logs"))?;
        watchdog(&format!("d {}", path.display()));
        HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if PANICKED.set(()).is_ok() {
                    watchdog("k");
                }
                previous(info);
            }));
        });
        if std::env::var_os("E2E_KEEP_LOGS").is_some() {
            watchdog("k");
        }
        Ok(Self { path })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the logs are.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// A new folder in it.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }

    /// Writes a file into it and returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // Of the test that fails; others of the program go on.
        let keep = std::thread::panicking() || std::env::var_os("E2E_KEEP_LOGS").is_some();
        if !keep {
            // What cannot be removed now, the watchdog removes.
            drop(fs::remove_dir_all(&self.path));
            return;
        }
        crate::tools::say(&format!("logs are in {}", self.logs().display()));
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_name() != "logs" {
                drop(fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path())));
            }
        }
    }
}

/// Cargo's target folder.
pub fn target_folder() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let target = if target.is_absolute() { target } else { workspace.join(target) };
    fs::create_dir_all(&target).and_then(|()| fs::canonicalize(&target)).unwrap_or(target)
}

/// A port of 127.0.0.1 that nobody listens on.
///
/// It lies below the range that the kernel gives to outgoing connections, so that a server which is stopped and started
/// again finds it free. Two processes may still draw the same one: whoever starts a server draws again if it cannot bind.
///
/// # Errors
/// When no port is free.
pub fn free_port() -> Result<u16> {
    static DRAWN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..1000 {
        let port = fastrand::u16(20_000..32_000);
        if !drawn.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            drawn.push(port);
            return Ok(port);
        }
    }
    bail!("no free port on 127.0.0.1")
}

/// Whether a log speaks of a port that somebody else has taken meanwhile.
pub fn port_was_taken(log: &Path) -> bool {
    fs::read_to_string(log).is_ok_and(|text| text.contains("address already in use"))
}

/// Lets the watchdog remove a cgroup, and those below it, once it has killed what is in it.
pub(crate) fn watch_cgroup(folder: &Path) {
    watchdog(&format!("c {}", folder.display()));
}

/// Tells the watchdog: `+ PID` a child, `- PID` it has ended, `c PATH` a cgroup and `d PATH` a folder to remove, `k` keep
/// logs.
fn watchdog(line: &str) {
    const SCRIPT: &str = r#"
        trap '' INT TERM HUP
        pids=' ' cgroups= keep=
        while read -r verb rest; do
          case $verb in
            +) pids="$pids$rest " ;;
            -) case $pids in *" $rest "*) pids="${pids%%" $rest "*} ${pids#*" $rest "}" ;; esac ;;
            c) cgroups="$cgroups $rest" ;;
            d) set -- "$@" "$rest" ;;
            k) keep=yes ;;
          esac
        done
        for pid in $pids; do kill -9 -"$pid" || kill -9 "$pid"; done
        # What was killed takes a moment to be gone, and its mounts and cgroups with it.
        for cgroup in $cgroups; do
          tries=300
          while [ -d "$cgroup" ] && [ "$tries" -gt 0 ]; do
            find "$cgroup" -depth -type d -exec rmdir {} \; || true
            [ ! -d "$cgroup" ] || sleep 0.1
            tries=$((tries - 1))
          done
        done
        for folder do
          [ -d "$folder" ] || continue
          if [ -z "$keep" ]; then rm -rf "$folder"; else
            for entry in "$folder"/*; do case $entry in */logs) ;; *) rm -rf "$entry" ;; esac; done
          fi
        done"#;
    static PIPE: OnceLock<Mutex<Option<ChildStdin>>> = OnceLock::new();
    let pipe = PIPE.get_or_init(|| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SCRIPT]).process_group(0).current_dir("/");
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Mutex::new(shell.spawn().ok().and_then(|mut child| child.stdin.take()))
    });
    if let Some(pipe) = pipe.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        // Without a watchdog the children still end with their owners.
        drop(writeln!(pipe, "{line}"));
    }
}
