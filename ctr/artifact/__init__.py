"""The trained model as a folder of files: written by every run, loaded to predict."""
