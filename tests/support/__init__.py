"""What the tests share: the server as a process, small clients, the history checker, the power cut."""
