"""`python -m train` does the same as `rfx train`."""

if __name__ == "__main__":
    from train.commands.entry import run

    run("train")
