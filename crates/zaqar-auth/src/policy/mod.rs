//! Policies: rules by name, in the language of oslo.policy.
//!
//! | file | subject |
//! |---|---|
//! | `parse` | parses the text of a rule into a [`Check`] |
//! | `check` | evaluates a check for credentials and a target |
//! | `rules` | all rules together: defaults, overrides, decisions |
//! | `problems` | what is wrong with them: unknown names, cycles, checks that are not supported |
//! | `files` | `policy_file` and `policy_dirs`, and their reload |
//! | `defaults` | the rule names and defaults of Zaqar |
//!
//! The language is that of oslo.policy (`_parser.py`, `_checks.py`, `policy.py`); a test compares
//! the decisions of both.

mod check;
mod defaults;
mod files;
mod parse;
mod problems;
mod rules;
mod template;

pub use check::{Check, Credentials, Scope, Target};
pub use defaults::{DEFAULTS, Default};
pub use files::{Files, LoadError, Loaded};
pub use problems::Problem;
pub use rules::{Builder, Rules};
