"""covidxr: helpers of a course on detecting COVID-19 in chest radiographs with ResNet18.

A teaching and research tool, never a medical device.
"""

__version__ = "0.1.0"

CLASSES = ("Normal", "Lung_Opacity", "COVID")


class InputError(ValueError):
    """Bad usage or bad input: says what was found, what was expected and what to do."""
