"""The two containers behind `mimotok.io.codes_file`, .npz and .mimo, and the bits in them."""
