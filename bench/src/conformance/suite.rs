//! The suite's folder and its programs for node: installed where they are missing, started, waited for.

use super::Tests;
use crate::process::{Scratch, Server, find_program};
use crate::wait;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A run of all tests takes about 20 s; a client that waits for an answer that never comes is ended after so long.
const CLIENT: Duration = Duration::from_secs(180);

/// The suite, installed.
#[derive(Debug)]
pub(super) struct Suite {
    folder: PathBuf,
    node: PathBuf,
    scratch: Scratch,
}

impl Suite {
    /// Finds the suite, and installs it first where it is missing: in `folder`, else beside its own files.
    pub(super) fn prepare(folder: Option<&Path>) -> io::Result<Self> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
        let node =
            find_program("node").ok_or_else(|| io::Error::other("no node in PATH (version 20 or later)"))?;
        let folder = match folder {
            // Modules are looked for above the file that wants them, so the files go where the modules are.
            Some(folder) => {
                copy(&own, folder)?;
                fs::canonicalize(folder)?
            }
            None => own,
        };
        if !folder.join("node_modules/http-cache-tests").is_dir() {
            println!("installing the suite: npm ci in {}", folder.display());
            let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
            let status = Command::new("npm").args(arguments).current_dir(&folder).status()?;
            if !status.success() {
                return Err(io::Error::other(format!("npm ci: {status}")));
            }
        }
        Ok(Self { folder, node, scratch: Scratch::new()? })
    }

    /// Returns the text of one of its files.
    pub(super) fn text(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.folder.join(name))
    }

    /// Starts its origin, which announces `listening on ADDRESS`.
    pub(super) fn origin(&self) -> io::Result<Server> {
        let program = self.folder.join("origin.mjs").display().to_string();
        Server::start("origin", &self.node, &[program], None)
    }

    /// Runs its client against the cache at `address` and returns what the client wrote.
    pub(super) fn client(&self, address: SocketAddr, tests: Tests, only: Option<&str>) -> io::Result<String> {
        let output = self.scratch.path().join("results.json");
        let which = match tests {
            Tests::Suite => "suite",
            Tests::Supplement => "supplement",
        };
        let mut command = Command::new(&self.node);
        command.arg(self.folder.join("client.mjs")).arg(format!("http://{address}")).arg(&output).arg(which);
        command.args(only).stdin(Stdio::null()).stdout(Stdio::null());
        let mut client = command.spawn()?;
        ended(&mut client)?;
        fs::read_to_string(&output)
    }
}

/// Waits for the client; an error when it fails or takes too long.
fn ended(client: &mut Child) -> io::Result<()> {
    let mut status = None;
    wait::until(CLIENT, || {
        status = client.try_wait().ok().flatten();
        status.is_some()
    });
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(io::Error::other(format!("the suite's client: {status}"))),
        None => {
            client.kill()?;
            client.wait()?;
            Err(io::Error::other(format!("the suite's client still waited after {} s", CLIENT.as_secs())))
        }
    }
}

/// Copies a folder's files, but for installed modules.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_name() == "node_modules" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_copied_without_the_modules() {
        let scratch = Scratch::new().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        for name in ["supplement", "node_modules"] {
            fs::create_dir_all(from.join(name)).unwrap();
            fs::write(from.join(name).join("index.mjs"), "export default []").unwrap();
        }
        copy(&from, &to).unwrap();
        assert!(to.join("supplement/index.mjs").is_file());
        assert!(!to.join("node_modules").exists());
    }

    #[test]
    fn a_client_that_fails_is_an_error() {
        let mut good = Command::new("true").spawn().unwrap();
        assert!(ended(&mut good).is_ok());
        let mut bad = Command::new("false").spawn().unwrap();
        assert!(ended(&mut bad).is_err());
    }
}
