//! From a forked child to the program it is to be.
//!
//! Runs in the child alone, so whatever a container's files make it wait for, the agent goes on. Reports on a
//! socket or pipe that closes on execution:
//!
//! ```text
//!  Response::Started(its pid)  then the end          it runs
//!  Response::Failed            then the end          it does not
//!  the end without either                            it was killed before
//! ```

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use capsid_protocol::{
    ErrorCode, ProcessId, ProcessSpec, Refusal, RequestId, Response, StartedProcess, write_frame,
};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::thread::ThreadNameSpaceType;

use crate::environment::{self, c_strings, execute_refused, find_program};
use crate::error::{Step, StepError, describe, refusal};
use crate::identity::{self, User};
use crate::stdio::ChildStdio;
use crate::{cgroup, credentials, mounts, small_init, sys};

/// How a child exits that did not become its program; nobody outside sees it.
pub(crate) const FAILED_EXIT_CODE: i32 = 127;
/// More of /etc/passwd or /etc/group is not read.
pub(crate) const MAX_ACCOUNT_FILE_BYTES: u64 = 16 << 20;

/// Takes back what protects the agent from the out-of-memory killer. Needs the agent's /proc.
pub(crate) fn leave_agents_protection() {
    // Without it the program would be as protected as the agent: wrong, and no reason not to run it.
    let _ = cgroup::write_existing("/proc/self/oom_score_adj", "0");
}

/// For a fresh child in the agent's namespaces (but for the process namespace): joins the container of `init`, and
/// becomes the program.
pub(crate) fn join_and_become_program(
    init: BorrowedFd<'_>,
    spec: &ProcessSpec,
    stdio: ChildStdio,
    status: OwnedFd,
) -> ! {
    leave_agents_protection();
    let mut keep = stdio.descriptors();
    keep.extend([init, status.as_fd()]);
    sys::process::close_all_but(&keep);
    let namespaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    let joined = rustix::thread::move_into_thread_name_spaces(init, namespaces);
    match joined.step(|| "failed to join the container".to_owned()) {
        Ok(()) => become_program(spec, stdio, status),
        Err(error) => fail(&status, error.into()),
    }
}

/// Becomes the program; this process is in the container's namespaces.
pub(crate) fn become_program(spec: &ProcessSpec, stdio: ChildStdio, status: OwnedFd) -> ! {
    let refused = try_become_program(spec, stdio, &status);
    fail(&status, refused)
}

fn fail(status: &OwnedFd, refused: Refusal) -> ! {
    report(status, &Response::Failed(refused));
    sys::process::exit_now(FAILED_EXIT_CODE)
}

fn report(status: &OwnedFd, response: &Response) {
    if let Ok(status) = status.try_clone() {
        let _ = write_frame(&mut std::fs::File::from(status), RequestId(0), response);
    }
}

/// Returns only what went wrong.
fn try_become_program(spec: &ProcessSpec, stdio: ChildStdio, status: &OwnedFd) -> Refusal {
    let prepared = prepare(spec, stdio);
    let environment = match prepared {
        Ok(environment) => environment,
        Err(refused) => return refused,
    };
    if spec.init
        && spec.process == ProcessId::INIT
        && let Err(error) = small_init::stay_as_init(spec.terminal.is_some())
    {
        return error.into();
    }
    sys::signals::SignalSet::empty().block();
    execute(spec, &environment, status)
}

/// Everything but the execution, in an order in which each step still has the rights it needs.
fn prepare(spec: &ProcessSpec, stdio: ChildStdio) -> Result<Vec<String>, Refusal> {
    rustix::process::setsid().step(|| "failed to start a session".to_owned())?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let user = find_user(spec)?;
    install_stdio(stdio, spec.process == ProcessId::INIT)?;
    give_stdio_to(&user);
    enter_working_folder(spec)?;
    credentials::set_limits(&spec.rlimits)?;
    credentials::assume(&user, &spec.capabilities, spec.no_new_privileges)?;
    sys::signals::restore_default_pipe_signal();
    Ok(environment::merge(&spec.env, &user.home))
}

fn execute(spec: &ProcessSpec, environment: &[String], status: &OwnedFd) -> Refusal {
    let path = environment::value(environment, "PATH").unwrap_or_default();
    let name = spec.args.first().map_or("", String::as_str);
    let program = match find_program(name, path, can_be_executed) {
        Ok(program) => program,
        Err(refused) => return refused,
    };
    let (arguments, variables) = match (c_strings(&spec.args), c_strings(environment)) {
        (Ok(arguments), Ok(variables)) => (arguments, variables),
        (Err(refused), _) | (_, Err(refused)) => return refused,
    };
    let Ok(path) = std::ffi::CString::new(program.as_str()) else {
        return refusal(ErrorCode::InvalidArgument, "the program's path holds a zero byte");
    };
    let pid = rustix::process::getpid().as_raw_pid().unsigned_abs();
    report(status, &Response::Started(StartedProcess { pid, at_us: 0 }));
    let error = sys::process::execute(&path, &arguments, &variables);
    execute_refused(&program, &error)
}

fn can_be_executed(path: &str) -> std::io::Result<()> {
    let found = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR.into());
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::empty()).map_err(Into::into)
}

fn find_user(spec: &ProcessSpec) -> Result<User, Refusal> {
    let (passwd, group) = (account_file("/etc/passwd"), account_file("/etc/group"));
    identity::resolve(&spec.identity, &passwd, &group)
        .map_err(|error| refusal(ErrorCode::NotFound, error.to_string()))
}

/// A file that cannot be read counts as empty. It may be anything: a pipe must not be waited for.
fn account_file(path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else { return String::new() };
    let is_file = rustix::fs::fstat(&file)
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile);
    let mut bytes = Vec::new();
    if is_file {
        let _ = std::fs::File::from(file).take(MAX_ACCOUNT_FILE_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn install_stdio(stdio: ChildStdio, is_init: bool) -> Result<(), StepError> {
    let failed = || "failed to set up stdio".to_owned();
    match stdio {
        ChildStdio::Terminal(terminal) => {
            rustix::process::ioctl_tiocsctty(&terminal).step(failed)?;
            if is_init {
                bind_console(&terminal)?;
            }
            rustix::stdio::dup2_stdin(&terminal).step(failed)?;
            rustix::stdio::dup2_stdout(&terminal).step(failed)?;
            rustix::stdio::dup2_stderr(&terminal).step(failed)
        }
        ChildStdio::Pipes { stdin, stdout, stderr } => {
            rustix::stdio::dup2_stdin(&stdin).step(failed)?;
            rustix::stdio::dup2_stdout(&stdout).step(failed)?;
            rustix::stdio::dup2_stderr(&stderr).step(failed)
        }
        ChildStdio::NoStdin { stdout, stderr } => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let null = rustix::fs::open("/dev/null", flags, Mode::empty()).step(failed)?;
            rustix::stdio::dup2_stdin(&null).step(failed)?;
            rustix::stdio::dup2_stdout(&stdout).step(failed)?;
            rustix::stdio::dup2_stderr(&stderr).step(failed)
        }
    }
}

/// Mounts the terminal on /dev/console, as every runtime does for the container's own process.
fn bind_console(terminal: &OwnedFd) -> Result<(), StepError> {
    let failed = || "failed to set up /dev/console".to_owned();
    mounts::make_file(Path::new("/dev/console")).step(failed)?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(terminal, "", flags).step(failed)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&tree, "", CWD, "/dev/console", flags).step(failed)
}

/// A program of another user must be able to open /dev/stdout, which is this pipe or terminal.
fn give_stdio_to(user: &User) {
    let owner = Some(rustix::fs::Uid::from_raw(user.uid));
    let give = |stdio: BorrowedFd<'_>| {
        let is_null = rustix::fs::fstat(stdio)
            .is_ok_and(|found| found.st_rdev == rustix::fs::makedev(1, 3) || found.st_uid == user.uid);
        if !is_null {
            let _ = rustix::fs::fchown(stdio, owner, None);
        }
    };
    give(rustix::stdio::stdin());
    give(rustix::stdio::stdout());
    give(rustix::stdio::stderr());
}

/// Only the container's own process has its folder made: `docker exec` fails on a missing one.
fn enter_working_folder(spec: &ProcessSpec) -> Result<(), Refusal> {
    let cwd = if spec.cwd.is_empty() { "/" } else { spec.cwd.as_str() };
    if !cwd.starts_with('/') {
        return Err(refusal(ErrorCode::InvalidArgument, format!("Cwd must be an absolute path: {cwd}")));
    }
    if spec.process == ProcessId::INIT {
        mounts::make_folders(Path::new(cwd)).map_err(|error| {
            refusal(ErrorCode::InvalidArgument, format!("mkdir {cwd}: {}", describe(&error)))
        })?;
    }
    rustix::process::chdir(cwd).map_err(|error| {
        // As of a program that is not there, which is how Docker's clients hear of it.
        let code =
            if error == Errno::NOENT { ErrorCode::CommandNotFound } else { ErrorCode::InvalidArgument };
        let words = describe(&error.into());
        refusal(code, format!("chdir to cwd ({cwd:?}) set in config.json failed: {words}"))
    })?;
    // A folder like /proc/self/fd/7 could lead out of the root (CVE-2024-21626). Everything above 2 is closed, so
    // there is nothing it could lead to; checked all the same.
    match rustix::process::getcwd(Vec::new()) {
        Ok(now) if now.to_bytes().starts_with(b"/") => Ok(()),
        _ => Err(refusal(
            ErrorCode::InvalidArgument,
            "current working directory is outside of container mount namespace root",
        )),
    }
}
