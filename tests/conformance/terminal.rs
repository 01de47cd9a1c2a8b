//! `-it`: a terminal of the container's own at the user's.

use capsid_tests::{TerminalCall, host};

#[test]
fn a_shell_at_a_terminal_echoes_obeys_and_follows_the_size() {
    let command = host().run(&["-it"], &["busybox", "sh"]).into_command();
    let mut terminal = TerminalCall::start(command, 33, 111);
    terminal.type_in("tty; stty size; echo TERM=$TERM\n");
    terminal.await_screen("/dev/pts/0");
    terminal.await_screen("33 111");
    terminal.await_screen("TERM=xterm");
    terminal.resize(44, 122);
    // The size arrives when it arrives: ask until it has.
    terminal.type_in("until stty size | grep 44; do sleep 0.1; done; echo reached $((6 * 7))\n");
    terminal.await_screen("44 122");
    terminal.await_screen("reached 42");
    terminal.type_in("exit 5\n");
    assert_eq!(terminal.finish(), 5);
}

#[test]
fn ctrl_c_interrupts_the_program_and_not_the_container() {
    let command = host().run(&["-it"], &["busybox", "sh"]).into_command();
    let mut terminal = TerminalCall::start(command, 24, 80);
    // What is typed before the shell reads is echoed as well, and lost to ctrl-c.
    terminal.await_screen("/ # ");
    // Once it has answered it is the terminal's foreground program.
    terminal.type_in("sh -c 'read word; echo got-$word; exec sleep 1000'\n");
    terminal.await_screen("1000'\r\n");
    terminal.type_in("line\n");
    terminal.await_screen("got-line\r\n");
    terminal.type_in("\u{3}");
    terminal.type_in("echo code $?\n");
    terminal.await_screen("code 130");
    // Before its prompt the shell has not set the terminal up to hand it a ctrl-d.
    terminal.await_screen("/ # ");
    terminal.type_in("\u{4}");
    // The shell's last command was the echo.
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn t_without_i_gives_a_terminal_to_write_to() {
    let command = host().run(&["-t"], &["busybox", "tty"]).into_command();
    let mut terminal = TerminalCall::start(command, 24, 80);
    // As with docker, the user's terminal stays as it is, and makes another carriage return of the line's end.
    terminal.await_screen("/dev/pts/0\r");
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn it_without_a_terminal_is_refused() {
    host()
        .run(&["-it"], &["busybox", "true"])
        .finish()
        .expect_code(1)
        .expect_stderr("the input device is not a TTY");
}

#[test]
fn a_terminal_that_is_gone_ends_the_client_and_not_the_container() {
    let command = host().run(&["-it", "--name", "hung-up"], &["busybox", "sh"]).into_command();
    let mut terminal = TerminalCall::start(command, 24, 80);
    terminal.await_screen("/ # ");
    assert_eq!(terminal.hang_up(), 129);
    // Whoever comes back finds the shell.
    let mut again = TerminalCall::start(host().call().args(["attach", "hung-up"]).into_command(), 24, 80);
    again.type_in("echo still $((6 * 7))\n");
    again.await_screen("still 42");
    again.type_in("exit 3\n");
    assert_eq!(again.finish(), 3);
}
