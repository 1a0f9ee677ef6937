"""Seeds of inputs that were faults once, by entry point: each campaign begins with them."""

FOUND = {
    "manifests": ("11.233", "11.318", "11.691", "11.837", "11.1115", "11.1620", "11.1639", "2026.1234"),
}
