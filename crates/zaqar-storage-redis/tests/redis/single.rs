//! The kit on one server.

use std::sync::LazyLock;

use crate::servers::Server;
use crate::support::Prefixes;

static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(&[]));

zaqar_storage_testkit::behaviour!(Prefixes(SERVER.uri()));
