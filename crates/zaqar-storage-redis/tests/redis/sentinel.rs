//! The kit on a server behind Sentinels.

use std::sync::LazyLock;

use crate::servers::Watched;
use crate::support::Prefixes;

static WATCHED: LazyLock<Watched> = LazyLock::new(Watched::start);

zaqar_storage_testkit::behaviour!(Prefixes(WATCHED.uri()));
