//! What a figure was taken on: without it nobody can compare it with another.

use super::arms::{Arm, Program};
use crate::process::memory_of_machine;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use xxhash_rust::xxh3::xxh3_64;

/// The machine and the programs on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    virtual_machine: bool,
    memory_gib: u64,
    kernel: String,
    programs: Vec<Version>,
}

/// One program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    arm: Arm,
    version: String,
    /// Tells two builds of one version of the product apart.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    build: Option<String>,
}

impl Machine {
    /// Describes this machine and `programs`.
    pub(crate) fn read(programs: &[Program]) -> io::Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
            line.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
        };
        let version = |program: &Program| -> io::Result<Version> {
            let own = !program.arm.is_peer();
            let build = own.then(|| fs::read(&program.path)).transpose()?;
            let build = build.map(|bytes| format!("{:016x}", xxh3_64(&bytes)));
            Ok(Version { arm: program.arm, version: program.version(), build })
        };
        Ok(Self {
            cpu: field(&cpus, "model name"),
            cores: cpus.lines().filter(|line| line.starts_with("processor")).count(),
            virtual_machine: field(&cpus, "flags").split(' ').any(|flag| flag == "hypervisor"),
            memory_gib: (memory_of_machine()? + (1 << 29)) >> 30,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            programs: programs.iter().map(version).collect::<io::Result<_>>()?,
        })
    }

    /// Returns it as a Markdown list.
    pub(crate) fn text(&self) -> String {
        let kind = if self.virtual_machine { "virtual machine" } else { "bare machine" };
        let mut text = format!(
            "- {}, {} cores, {} GiB, {kind}; Linux {}\n",
            self.cpu, self.cores, self.memory_gib, self.kernel
        );
        for program in &self.programs {
            text.push_str(&format!("- {}: {}", program.arm.name(), program.version));
            if let Some(build) = &program.build {
                text.push_str(&format!(", build {build}"));
            }
            if let Some(note) = program.arm.note() {
                text.push_str(&format!(" ({note})"));
            }
            text.push('\n');
        }
        text
    }
}
