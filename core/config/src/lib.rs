//! What the operator said, from flags to values that cannot be wrong.
//!
//! [`settings`] is the one table of flags: help, reference page, completions, defaults and bounds come from it. [`raw`] holds
//! what was given, [`check()`] turns it into [`Settings`] or names the flag, the value and what is accepted, and
//! [`behavior`] is the part that each request reads. Nothing here touches files, the network or the environment.
#![forbid(unsafe_code)]

pub mod behavior;
pub mod check;
pub mod checked;
pub mod markdown;
pub mod raw;
pub mod settings;
pub mod values;

pub use behavior::Behavior;
pub use check::{SettingError, check, check_format};
pub use checked::{
    AccessLog, AdminAddress, Cores, FormatSettings, ListenAddress, OriginHost, OriginUrl, Semantics, Settings,
};
pub use raw::Raw;
