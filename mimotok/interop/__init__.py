"""Our models under the interfaces of other projects, none of which has to be installed."""
