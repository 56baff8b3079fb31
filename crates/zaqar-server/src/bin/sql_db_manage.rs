//! See [`zaqar_server::commands::sql_db_manage`].

use std::process::ExitCode;

fn main() -> ExitCode {
    zaqar_server::commands::sql_db_manage()
}
